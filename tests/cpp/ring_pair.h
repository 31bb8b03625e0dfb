// Both ends of a small ring in one process, and microbatches whose every word can be checked.

#pragma once

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "check.h"
#include "ring/consumer.h"
#include "ring/producer.h"

namespace fkat {

inline constexpr std::chrono::nanoseconds kNoWait{0};
inline constexpr std::chrono::minutes kForever{10};  // where only a wake-up can end a wait

// A fixed, well mixed function (the finaliser of SplitMix64).
inline std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

inline void fill_words(std::byte* to, std::uint64_t nbytes, std::uint64_t seed) {
  for (std::uint64_t at = 0; at + 8 <= nbytes; at += 8) {
    const std::uint64_t word = mix(seed + at);
    std::memcpy(to + at, &word, 8);
  }
}

inline void check_words(std::span<const std::byte> bytes, std::uint64_t seed) {
  for (std::uint64_t at = 0; at + 8 <= bytes.size(); at += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    if (word != mix(seed + at)) CHECK_EQ(word, mix(seed + at));
  }
}

// As another process gets them.
inline std::vector<WakeFd> wake_fds_of(const Ring& ring) {
  std::vector<WakeFd> duplicates;
  for (const WakeFd& wake_fd : ring.wake_fds()) duplicates.emplace_back(wake_fd.fd());
  return duplicates;
}

struct Options {
  std::uint32_t num_slots = 2;
  std::uint32_t num_prefetches = 2;
  std::uint32_t max_leases = 1;
  std::uint64_t budget_nbytes = 64 * MiB;
  std::uint32_t num_readers = 1;
};

struct RingPair {
  explicit RingPair(const Options& options = {})
      : ring(Ring::create(options.num_slots, 2 * MiB, options.num_readers)),
        producer(ring, options.budget_nbytes),
        consumer(ring, 0, options.num_prefetches, options.max_leases) {}

  void begin_pass(std::uint64_t epoch = 0, std::uint64_t start = 0) {
    consumer.begin_pass(epoch, start);
    CHECK(producer.await_pass(pass.id, pass, kNoWait) == Turn::kGo);
  }

  // Publishes a microbatch whose words follow from its position, if a slot is there now.
  Turn try_publish(std::uint64_t position, std::uint64_t nbytes = 64) {
    std::uint32_t slot = 0;
    const Turn turn = producer.claim(pass, nbytes, slot, kNoWait);
    if (turn != Turn::kGo) return turn;
    fill_words(producer.slot_data(slot), nbytes, position);
    producer.publish(pass, position, slot, nbytes);
    return turn;
  }
  void publish(std::uint64_t position, std::uint64_t nbytes = 64) {
    CHECK(try_publish(position, nbytes) == Turn::kGo);
  }

  // The next record, which must be the microbatch at `position`.
  Record acquire(std::uint64_t position) {
    std::optional<Record> record = consumer.try_acquire();
    CHECK(record.has_value());
    CHECK(record->kind == RecordKind::kMicrobatch);
    CHECK_EQ(record->position, position);
    check_words(record->bytes, position);
    return std::move(*record);
  }

  SlotState state(std::uint32_t slot) const { return ring->slot_line(slot).state.load(); }

  std::shared_ptr<Ring> ring;
  Producer producer;
  Consumer consumer;
  Pass pass{};
};

}  // namespace fkat
