// Engine: streams of work, executed late by threads of its own, out of order between streams.
//
// Called with the state's lock held, which `lock` stands for; it is released while work is executed
// and while waiting. Its threads start with the first work that is not held, and never end.

#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>

#include "errors.h"

namespace fake {

using Lock = std::unique_lock<std::mutex>;

// One recording of an event: a place in a stream, reached or not.
struct Mark {
  bool is_reached = false;
};

struct Work {
  std::shared_ptr<const Mark> after;       // not before this is reached
  std::function<Result()> run;             // without the lock
  std::function<void()> end;               // with it; also when the work is dropped
  std::function<Result()> injected_fault;  // with it, before run and instead of it
};

class Stream {
 private:
  friend class Engine;
  std::deque<Work> queue_;
  bool is_busy_ = false;
  std::uint64_t num_issued_ = 0;
  std::uint64_t num_ended_ = 0;
};

class Engine {
 public:
  Engine();

  void* create_stream();
  Stream* find(void* handle);  // nullptr if there is none
  void enqueue(Stream& stream, Work work);

  void hold(Lock& lock);
  void release();
  bool step(Lock& lock, Stream& stream);  // false: nothing to execute

  // Both end early if the context breaks.
  void wait(Lock& lock, const Mark& mark);
  void wait(Lock& lock, const Stream& stream);
  void wait_until_idle(Lock& lock);

  void drop_all();
  void forget_streams();  // but stream 0; when idle
  void set_seed(std::uint64_t seed) { random_.seed(seed); }
  void set_delay(unsigned min_us, unsigned max_us);

  std::int64_t in_flight() const;
  Result broken() const { return broken_; }  // what the device failed with
  void mend() { broken_ = kSuccess; }

 private:
  bool is_ready(const Stream& stream) const;
  Stream* choose();
  void execute(Lock& lock, Stream& stream, unsigned delay_us);
  void loop();
  void start_threads();

  std::map<void*, std::unique_ptr<Stream>> streams_;
  std::uintptr_t last_stream_ = 0x50000000;  // handles are never used twice
  std::condition_variable changed_;
  std::mt19937_64 random_{0};
  std::uniform_int_distribution<unsigned> delay_us_{0, 200};
  Result broken_ = kSuccess;
  int num_running_ = 0;
  bool is_held_ = false;
  bool has_threads_ = false;
};

}  // namespace fake
