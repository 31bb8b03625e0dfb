#include "engine.h"

#include <chrono>
#include <thread>
#include <vector>

#include "state.h"

namespace fake {
namespace {

constexpr int kNumThreads = 3;

}  // namespace

Engine::Engine() {
  streams_.emplace(nullptr, std::make_unique<Stream>());
}

void* Engine::create_stream() {
  last_stream_ += 16;
  void* const handle = reinterpret_cast<void*>(last_stream_);
  streams_.emplace(handle, std::make_unique<Stream>());
  return handle;
}

Stream* Engine::find(void* handle) {
  const auto found = streams_.find(handle);
  return found == streams_.end() ? nullptr : found->second.get();
}

void Engine::enqueue(Stream& stream, Work work) {
  stream.queue_.push_back(std::move(work));
  ++stream.num_issued_;
  if (!is_held_) start_threads();
  changed_.notify_all();
}

void Engine::hold(Lock& lock) {
  is_held_ = true;
  changed_.wait(lock, [this] { return num_running_ == 0; });
}

void Engine::release() {
  is_held_ = false;
  start_threads();
  changed_.notify_all();
}

bool Engine::step(Lock& lock, Stream& stream) {
  if (!is_ready(stream)) return false;
  execute(lock, stream, 0);
  return true;
}

void Engine::wait(Lock& lock, const Mark& mark) {
  changed_.wait(lock, [&] { return mark.is_reached || broken_ != kSuccess; });
}

void Engine::wait(Lock& lock, const Stream& stream) {
  const std::uint64_t last = stream.num_issued_;
  changed_.wait(lock, [&] { return stream.num_ended_ >= last || broken_ != kSuccess; });
}

void Engine::wait_until_idle(Lock& lock) {
  changed_.wait(lock, [this] { return in_flight() == 0; });
}

void Engine::drop_all() {
  for (auto& entry : streams_) {
    Stream& stream = *entry.second;
    for (const Work& work : stream.queue_) {
      if (work.end) work.end();
      ++stream.num_ended_;
    }
    stream.queue_.clear();
  }
  changed_.notify_all();
}

void Engine::forget_streams() {
  std::erase_if(streams_, [](const auto& entry) { return entry.first != nullptr; });
}

void Engine::set_delay(unsigned min_us, unsigned max_us) {
  delay_us_ = std::uniform_int_distribution<unsigned>(min_us, max_us);
}

std::int64_t Engine::in_flight() const {
  std::int64_t sum = 0;
  for (const auto& entry : streams_) {
    sum += static_cast<std::int64_t>(entry.second->num_issued_ - entry.second->num_ended_);
  }
  return sum;
}

bool Engine::is_ready(const Stream& stream) const {
  if (stream.is_busy_ || stream.queue_.empty()) return false;
  const Mark* const after = stream.queue_.front().after.get();
  return after == nullptr || after->is_reached;
}

Stream* Engine::choose() {
  std::vector<Stream*> ready;
  for (const auto& entry : streams_) {
    if (is_ready(*entry.second)) ready.push_back(entry.second.get());
  }
  if (ready.empty() || is_held_) return nullptr;
  return ready[random_() % ready.size()];
}

void Engine::execute(Lock& lock, Stream& stream, unsigned delay_us) {
  const Work work = std::move(stream.queue_.front());
  stream.queue_.pop_front();
  stream.is_busy_ = true;
  ++num_running_;
  Result result = work.injected_fault ? work.injected_fault() : kSuccess;
  lock.unlock();
  if (delay_us != 0) std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
  if (result == kSuccess && work.run) result = work.run();
  lock.lock();
  if (result != kSuccess && broken_ == kSuccess) {
    broken_ = result;
    drop_all();
  }
  if (work.end) work.end();
  stream.is_busy_ = false;
  ++stream.num_ended_;
  --num_running_;
  changed_.notify_all();
}

void Engine::loop() {
  Lock lock(state().mutex);
  for (;;) {
    if (Stream* const stream = choose()) {
      execute(lock, *stream, delay_us_(random_));
    } else {
      changed_.wait(lock);
    }
  }
}

void Engine::start_threads() {
  if (has_threads_) return;
  has_threads_ = true;
  for (int i = 0; i < kNumThreads; ++i) std::thread([this] { loop(); }).detach();
}

}  // namespace fake
