// Ring: a process-local view of the bytes that layout.h draws.
//
// Made once by the trainer (`create`), attached by the producer (`attach`), which checks magic,
// version and geometry and keeps its own copy of the geometry: bytes that change afterwards cannot
// move a pointer. Holds the segment; roles and leases hold the ring.

#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "ring/layout.h"
#include "shm/segment.h"
#include "shm/wake_fd.h"

namespace fkat {

// A ring as seen from outside, for a person to read: its parts are looked at one after the other.
struct RingView {
  Activity activity;                   // 7 (none of them) where the word is damaged
  std::chrono::nanoseconds since;      // the producer went over to that
  std::uint64_t num_unread;            // records published and not read by the first reader
  std::array<std::uint32_t, 4> slots;  // how many are in each SlotState
  std::uint64_t leased_nbytes;         // memory of those that are LEASED
};

class Ring {
 public:
  // A new ring whose slots hold frames of up to `slot_nbytes` (rounded up). Throws ArgumentError.
  static std::shared_ptr<Ring> create(std::uint32_t num_slots, std::uint64_t slot_nbytes,
                                      std::uint32_t num_readers = 1);

  // The ring in a segment that somebody else made, whose wake_fds() these are: one for each reader,
  // or none for who only looks. Throws CorruptSegment, saying whether it is no ring, not ready, of
  // another version, or inconsistent; ArgumentError when it has another number of readers.
  static std::shared_ptr<Ring> attach(std::shared_ptr<Segment> segment,
                                      std::vector<WakeFd> wake_fds = {});

  const Geometry& geometry() const { return geometry_; }
  Segment& segment() const { return *segment_; }

  // Where each reader sleeps. Throws ArgumentError if the ring was attached without.
  const WakeFd& wake_fd(std::uint32_t reader) const;
  std::span<const WakeFd> wake_fds() const { return wake_fds_; }

  ProducerLine& producer_line() const { return at<ProducerLine>(kLine); }
  TrainerLine& trainer_line() const { return at<TrainerLine>(2 * kLine); }
  ReaderLine& reader_line(std::uint32_t reader) const {
    return at<ReaderLine>(geometry_.readers_offset() + reader * sizeof(ReaderLine));
  }
  SlotLine& slot_line(std::uint32_t slot) const {
    return at<SlotLine>(geometry_.slot_lines_offset() + slot * sizeof(SlotLine));
  }
  IndexEntry& index_entry(std::uint64_t seq) const {
    const std::uint64_t mask = geometry_.index_capacity() - 1;
    return at<IndexEntry>(geometry_.index_offset() + (seq & mask) * sizeof(IndexEntry));
  }
  std::span<std::byte> error_text() const {
    return {segment_->data() + geometry_.error_offset(), kErrorNbytes};
  }
  std::uint64_t slot_offset(std::uint32_t slot) const {
    return geometry_.slots_offset() + slot * geometry_.slot_nbytes;
  }
  std::byte* slot_data(std::uint32_t slot) const { return segment_->data() + slot_offset(slot); }

  // Gives back a share of a slot that was published to readers. The last share frees it.
  void release_share(std::uint32_t slot) const;

  // For the trainer, when the producer is gone and nothing will be acquired any more: gives the
  // memory of all slots back to the kernel, whoever else maps the ring (each process that the
  // trainer has forked since, for as long as it lives). What is still leased or page-locked follows
  // when it no longer is. Any thread, while leases are dropped on others; it takes as long as
  // unmapping the memory would. Only once, and nothing in a process forked from the ring's own.
  void retire();

  // Gives the memory of a slot back if the ring is retired and the slot is neither leased nor
  // page-locked. For who has just made one of these true; see retired_. Never throws.
  void give_back(std::uint32_t slot) const noexcept;

  // Tells the producer that no reader will ask again. Any process, any number of times.
  void stop() const;

  // Says what the producer does from now on. For the producer, and for the maker of the ring.
  void enter(Activity activity) const;

  // Any process, at any time; never blocks.
  RingView look() const;

 private:
  Ring(std::shared_ptr<Segment> segment, const Geometry& geometry, std::vector<WakeFd> wake_fds);

  template <typename T>
  T& at(std::uint64_t offset) const {
    return *reinterpret_cast<T*>(segment_->data() + offset);
  }

  std::shared_ptr<Segment> segment_;
  Geometry geometry_;
  std::vector<WakeFd> wake_fds_;
  pid_t owner_;

  // SYNC POINT G (all sequentially consistent): the memory of a slot goes back when three things
  // hold: the ring is retired, the slot is not LEASED, and it is not page-locked. Each of them then
  // holds for good: nothing is acquired any more, and only what is LEASED gets page-locked. Who
  // makes one true (retire, the last share's release, the unpinning) stores it first and then, in
  // give_back, loads the others. One of these stores is the last in their total order, and the
  // loads behind it see all three: no memory is forgotten. With release and acquire two could miss
  // each other's store. Two who see all three both give back, which is harmless: nobody looks into
  // the slot, and nobody will write it again.
  std::atomic<bool> retired_{false};
};

// The checksum that stands in IndexEntry::checksum.
std::uint64_t checksum(const IndexEntry& entry);

}  // namespace fkat
