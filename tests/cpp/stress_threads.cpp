// Producer, consumer and a third thread that drops leases, over one mapping: the test that
// ThreadSanitizer understands (it misses races between two mappings). Tiny rings, random sizes,
// random hold times, random new passes; every word of every microbatch is checked. Where the
// consumer pins, it is checked that a slot keeps its memory for as long as it is pinned.

#include <unistd.h>

#include <deque>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "ring_pair.h"

namespace fkat {
namespace {

// What a pass contains follows from its epoch, so that the two ends need not talk.
std::uint64_t seed_of(std::uint64_t epoch, std::uint64_t position) {
  return mix(epoch * 1'000'003 + position);
}
std::uint64_t nbytes_of(std::uint64_t epoch, std::uint64_t position) {
  const std::uint64_t random = seed_of(epoch, position);
  switch (random % 8) {
    case 0:
      return 0;
    case 1:
      return 8 * (random / 8 % 40'000);
    default:
      return 8 * (random / 8 % 500);
  }
}
std::uint64_t length_of(std::uint64_t epoch) {
  return mix(epoch) % 60;
}
bool ends_in_error(std::uint64_t epoch) {
  return mix(epoch) % 7 == 0;
}

constexpr std::chrono::milliseconds kSlice{5};

enum class Pinning { kNone, kObeys, kRefuses };  // to unpin

class Run {
 public:
  Run(const Options& options, long num_microbatches, Pinning pinning = Pinning::kNone)
      : pair_(options),
        left_(num_microbatches),
        pinning_(pinning),
        pinned_(options.num_slots, 0),
        num_asked_(options.num_slots, 0) {}

  void run() {
    std::thread producer([this] { produce(); });
    std::thread dropper([this] { drop(); });
    consume();
    pair_.ring->stop();
    done_.store(true);
    producer.join();
    dropper.join();
    for (std::uint32_t slot = 0; slot < pair_.ring->geometry().num_slots; ++slot) {
      CHECK(pair_.state(slot) == SlotState::kFree || pair_.state(slot) == SlotState::kReady);
      CHECK(pinning_ != Pinning::kRefuses || num_asked_[slot] <= 1);
    }
    const long num_asked = std::accumulate(num_asked_.begin(), num_asked_.end(), 0L);
    CHECK_EQ(num_asked > 0, pinning_ != Pinning::kNone);
  }

 private:
  void produce() {
    Pass pass{};
    for (;;) {
      const Turn turn = pair_.producer.await_pass(pass.id, pass, kSlice);
      if (turn == Turn::kStopped) return;
      if (turn == Turn::kGo) produce(pass);
    }
  }

  void produce(const Pass& pass) {
    Producer& producer = pair_.producer;
    const std::uint64_t length = length_of(pass.epoch);
    for (std::uint64_t position = pass.start; position < length; ++position) {
      Turn turn;
      while ((turn = producer.await_grant(pass, kSlice)) == Turn::kWait) continue;
      if (turn != Turn::kGo) return;
      const std::uint64_t nbytes = nbytes_of(pass.epoch, position);
      std::uint32_t slot = 0;
      while ((turn = producer.claim(pass, nbytes, slot, kSlice)) == Turn::kWait) continue;
      if (turn != Turn::kGo) return;
      if (position % 11 == 5) {  // a collate that failed half way, and is tried again
        fill_words(producer.slot_data(slot), nbytes / 2, ~position);
        producer.abandon(slot);
        while ((turn = producer.claim(pass, nbytes, slot, kSlice)) == Turn::kWait) continue;
        if (turn != Turn::kGo) return;
      }
      fill_words(producer.slot_data(slot), nbytes, seed_of(pass.epoch, position));
      producer.publish(pass, position, slot, nbytes);
    }
    if (ends_in_error(pass.epoch)) {
      const std::string text = "error of epoch " + std::to_string(pass.epoch);
      producer.publish_error(pass, length, std::as_bytes(std::span(text)));
    } else {
      producer.publish_end(pass, length);
    }
  }

  void consume() {
    for (std::uint64_t epoch = 1; left_ > 0; ++epoch) {
      const std::uint64_t start = random_() % 3 == 0 ? random_() % (length_of(epoch) + 1) : 0;
      pair_.consumer.begin_pass(epoch, start);
      consume(epoch, start);
    }
  }

  // Until the end of the pass, or until the loop is left early.
  void consume(std::uint64_t epoch, std::uint64_t position) {
    const std::uint64_t leave_at = random_() % 4 == 0 ? random_() % 40 : ~std::uint64_t{0};
    for (; position < leave_at; ++position) {
      std::optional<Record> record;
      while (!(record = acquire())) pair_.consumer.wait(kSlice);
      CHECK_EQ(record->position, position);
      if (record->kind != RecordKind::kMicrobatch) {
        CHECK_EQ(position, std::max(position, length_of(epoch)));
        CHECK_EQ(record->kind == RecordKind::kError, ends_in_error(epoch));
        if (record->kind == RecordKind::kError) {
          CHECK_EQ(record->error, "error of epoch " + std::to_string(epoch));
        }
        return;
      }
      CHECK_EQ(record->bytes.size(), nbytes_of(epoch, position));
      check_words(record->bytes, seed_of(epoch, position));
      --left_;
      if (random_() % 2 == 0) hand_over(std::move(*record), seed_of(epoch, position));
    }
  }

  // The next record that is no request to unpin, if it is there.
  std::optional<Record> acquire() {
    auto record = pair_.consumer.try_acquire();
    for (; record && record->kind == RecordKind::kReclaim; record = pair_.consumer.try_acquire()) {
      // Who unpins unasked may have done so since it was asked.
      CHECK(pinning_ == Pinning::kObeys || pinned_[record->slot] != 0);
      ++num_asked_[record->slot];
      if (pinning_ == Pinning::kObeys) unpin(record->slot);
    }
    const bool is_view = record && record->kind == RecordKind::kMicrobatch && !record->is_copy;
    if (is_view && pinning_ != Pinning::kNone) pin(*record);
    return record;
  }

  void pin(const Record& record) {
    check_backed(record.slot);
    if (random_() % 4 == 0) return;
    CHECK(record.committed_nbytes >= pinned_[record.slot]);
    pinned_[record.slot] = record.committed_nbytes;
    pair_.ring->slot_line(record.slot)
        .pinned_nbytes.store(record.committed_nbytes, std::memory_order_relaxed);
    check_backed(record.slot);
    // Now and then a slot that somebody may hold, or nobody.
    if (pinning_ == Pinning::kObeys && random_() % 16 == 0) unpin(random_() % pinned_.size());
  }

  void unpin(std::size_t slot) {
    check_backed(slot);
    pinned_[slot] = 0;
    pair_.ring->slot_line(static_cast<std::uint32_t>(slot))
        .pinned_nbytes.store(0, std::memory_order_release);
  }

  // What is pinned has no hole, and so the pages that it was pinned with.
  void check_backed(std::size_t slot) const {
    if (pinned_[slot] == 0) return;
    const std::uint64_t begin = pair_.ring->slot_offset(static_cast<std::uint32_t>(slot));
    const off_t hole = lseek(pair_.ring->segment().fd(), static_cast<off_t>(begin), SEEK_HOLE);
    CHECK(hole >= static_cast<off_t>(begin + pinned_[slot]));
  }

  struct Held {
    Record record;
    std::uint64_t seed;
  };

  void hand_over(Record record, std::uint64_t seed) {
    const std::lock_guard lock(mutex_);
    held_.push_back({std::move(record), seed});
  }

  // Keeps a random number of microbatches, oldest or youngest dropped first, checks each again.
  void drop() {
    std::minstd_rand random(7);
    while (!done_.load() || !held_.empty()) {
      std::optional<Held> dropped;
      {
        const std::lock_guard lock(mutex_);
        if (held_.size() > random() % 6 || (done_.load() && !held_.empty())) {
          const bool oldest = random() % 2 == 0;
          dropped = std::move(oldest ? held_.front() : held_.back());
          oldest ? held_.pop_front() : held_.pop_back();
        }
      }
      if (dropped)
        check_words(dropped->record.bytes, dropped->seed);
      else
        std::this_thread::yield();
    }
  }

  RingPair pair_;
  long left_;
  Pinning pinning_;
  std::vector<std::uint64_t> pinned_;  // bytes of each slot
  std::vector<long> num_asked_;        // requests to unpin each slot
  std::minstd_rand random_{42};
  std::mutex mutex_;
  std::deque<Held> held_;
  std::atomic<bool> done_{false};
};

TEST(two_slots) {
  Run({.num_slots = 2, .num_prefetches = 2, .max_leases = 1}, check::rounds(5000)).run();
}
TEST(four_slots) {
  Run({.num_slots = 4, .num_prefetches = 3, .max_leases = 3}, check::rounds(5000)).run();
}
TEST(one_slot_without_a_window) {
  Run({.num_slots = 1, .num_prefetches = 0, .max_leases = 1}, check::rounds(5000)).run();
}
// Slots lose their memory and get it back all the time.
TEST(three_slots_on_a_tight_budget) {
  Run({.num_slots = 3, .num_prefetches = 3, .max_leases = 2, .budget_nbytes = 400 * KiB},
      check::rounds(5000))
      .run();
}
TEST(three_pinned_slots_on_a_tight_budget) {
  const Options options{
      .num_slots = 3, .num_prefetches = 3, .max_leases = 2, .budget_nbytes = 400 * KiB};
  Run(options, check::rounds(5000), Pinning::kObeys).run();
  Run(options, check::rounds(5000), Pinning::kRefuses).run();
}
TEST(pinned_slots_without_a_window) {
  const Options options{
      .num_slots = 4, .num_prefetches = 0, .max_leases = 3, .budget_nbytes = 400 * KiB};
  Run(options, check::rounds(5000), Pinning::kObeys).run();
  Run(options, check::rounds(5000), Pinning::kRefuses).run();
}

}  // namespace
}  // namespace fkat
