// A pool of slots that is filled again as soon as their copies are done: 10,000 copies of random
// sizes on two copy streams, executed late and out of order, partly page-locked. A second thread
// fills the slots, so that ThreadSanitizer too sees a slot that is released too early. Contents are
// read back at the far end, on streams that wait for the copy and for nothing else.

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <thread>

#include "cuda/pinned_prefix.h"
#include "cuda/stager.h"
#include "fake_device.h"

namespace fkat::cuda {
namespace {

constexpr std::uint64_t kSlotNbytes = 16 * kPage;
constexpr std::uint64_t kMaxRegistration = 3 * kPage;  // many borders
constexpr std::size_t kNumSlots = 6;
constexpr std::size_t kNumTargets = 8;

// Slots by number, handed from one thread to the other.
class Queue {
 public:
  void push(std::size_t slot, std::uint64_t nbytes = 0) {
    const std::lock_guard lock(mutex_);
    slots_.push_back({slot, nbytes});
    changed_.notify_one();
  }
  std::pair<std::size_t, std::uint64_t> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !slots_.empty(); });
    const auto slot = slots_.front();
    slots_.pop_front();
    return slot;
  }
  bool is_empty() {
    const std::lock_guard lock(mutex_);
    return slots_.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<std::size_t, std::uint64_t>> slots_;
};

// What the copy of that number contains: 64-bit words that count up from a value of its own.
void fill(std::byte* slot, std::uint64_t number, std::uint64_t nbytes) {
  for (std::uint64_t at = 0; at < nbytes; at += sizeof number) {
    const std::uint64_t word = number * 1'000'003 + at;
    std::memcpy(slot + at, &word, sizeof word);
  }
}

// Where a copy arrives, and where a kernel behind it puts what it finds.
struct Target {
  Memory memory = Memory(kSlotNbytes);
  Memory seen = Memory(kSlotNbytes);
  Stream consumer = new_stream();
  Event is_seen = nullptr;
  std::uint64_t number = 0;
  std::uint64_t nbytes = 0;
};

class Run {
 public:
  explicit Run(long num_copies) : num_copies_(static_cast<std::uint64_t>(num_copies)) {
    fake_cuda_delay(0, 20);
    const DeviceContext::Current current(*device_.context);
    for (std::size_t slot = 0; slot < kNumSlots; ++slot) {
      prefixes_.emplace_back(data(slot));
      prefixes_[slot].grow(driver(), slot * 3 * kPage, kMaxRegistration);  // the first: none
      free_.push(slot);
    }
    for (Target& target : targets_) {
      driver().event_create(&target.is_seen, kEventDisableTiming);
    }
  }

  void run() {
    std::thread producer([this] { produce(); });
    for (std::uint64_t number = 0; number < num_copies_; ++number) deliver(number);
    producer.join();
    for (Target& target : targets_) check(target);
    stager_.synchronize();
    const DeviceContext::Current current(*device_.context);
    for (Target& target : targets_) driver().event_destroy(target.is_seen);
    for (PinnedPrefix& prefix : prefixes_) prefix.unpin(driver());
  }

 private:
  const Driver& driver() const { return *device_.driver; }
  std::byte* data(std::size_t slot) const { return segment_->data() + slot * kSlotNbytes; }

  void produce() {
    std::mt19937_64 random(1);
    for (std::uint64_t number = 0; number < num_copies_; ++number) {
      const std::size_t slot = free_.pop().first;
      const std::uint64_t nbytes = 8 * (random() % (kSlotNbytes / 8 + 1));
      fill(data(slot), number, nbytes);
      ready_.push(slot, nbytes);
    }
  }

  // The slot goes back to the producer when its owner is released.
  std::shared_ptr<const void> lease(std::size_t slot) {
    return {data(slot), [this, slot](const void*) { free_.push(slot); }};
  }

  void deliver(std::uint64_t number) {
    while (ready_.is_empty()) stager_.poll();  // or the producer would wait for slots that are done
    const auto [slot, nbytes] = ready_.pop();
    Target& target = targets_[number % kNumTargets];
    check(target);
    std::vector<Bytes> pieces;
    prefixes_[slot].for_each_piece({data(slot), nbytes},
                                   [&](Bytes piece) { pieces.push_back(piece); });
    const auto transfer = stager_.copy(pieces, device_pointer(target.memory), streams_[number % 2],
                                       lease(slot), "copy " + std::to_string(number));
    transfer->make_wait(target.consumer);
    target.number = number;
    target.nbytes = nbytes;
    fake_cuda_launch_read(target.consumer, device_pointer(target.memory), target.seen.data(),
                          nbytes);
    const DeviceContext::Current current(*device_.context);
    CHECK_EQ(driver().event_record(target.is_seen, target.consumer), kSuccess);
  }

  // What the last copy to this target brought.
  void check(Target& target) {
    const DeviceContext::Current current(*device_.context);
    CHECK_EQ(driver().event_synchronize(target.is_seen), kSuccess);
    Memory expected(target.nbytes);
    fill(expected.data(), target.number, target.nbytes);
    CHECK(std::equal(expected.begin(), expected.end(), target.seen.begin()));
  }

  FakeDevice device_;
  const std::uint64_t num_copies_;
  std::shared_ptr<Segment> segment_ = filled_segment(kNumSlots * kSlotNbytes, 0);
  Queue free_;
  Queue ready_;
  std::vector<PinnedPrefix> prefixes_;
  std::vector<Target> targets_{kNumTargets};
  Stream streams_[2] = {new_stream(), new_stream()};
  Stager stager_{device_.context};
};

TEST(slots_are_filled_again_under_copies_in_flight) {
  Run(check::rounds(10'000)).run();
}

}  // namespace
}  // namespace fkat::cuda
