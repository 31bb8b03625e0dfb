#include "ring/ring.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <exception>
#include <string>

#include "base/checksum.h"
#include "base/crash_point.h"
#include "base/error.h"

namespace fkat {
namespace {

// CLOCK_MONOTONIC, which is the same in every process; from the vDSO, without a system call.
std::uint64_t monotonic_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(now).count());
}

}  // namespace

std::uint32_t Geometry::index_capacity() const {
  // Every slot can be published and unread at once (with a microbatch or to be reclaimed: a record
  // that names a slot is the only one that does until it is read), plus an end or error record of
  // the current pass and one left over from the pass before.
  return std::bit_ceil(num_slots + 4);
}

std::optional<std::uint64_t> Geometry::total_nbytes() const {
  if (num_slots == 0 || num_slots > kMaxSlots || num_readers == 0 || num_readers > kMaxReaders ||
      slot_nbytes == 0 || slot_nbytes % kSlotAlignment != 0) {
    return std::nullopt;
  }
  const auto slots = checked_mul(num_slots, slot_nbytes);
  return slots ? checked_add(slots_offset(), *slots) : std::nullopt;
}

Ring::Ring(std::shared_ptr<Segment> segment, const Geometry& geometry, std::vector<WakeFd> wake_fds)
    : segment_(std::move(segment)),
      geometry_(geometry),
      wake_fds_(std::move(wake_fds)),
      owner_(getpid()) {}

std::shared_ptr<Ring> Ring::create(std::uint32_t num_slots, std::uint64_t slot_nbytes,
                                   std::uint32_t num_readers) {
  if (num_slots == 0 || num_slots > kMaxSlots) {
    throw ArgumentError("num_slots is " + std::to_string(num_slots) + ", must be 1 to " +
                        std::to_string(kMaxSlots));
  }
  if (num_readers == 0 || num_readers > kMaxReaders) {
    throw ArgumentError("num_readers is " + std::to_string(num_readers) + ", must be 1 to " +
                        std::to_string(kMaxReaders));
  }
  // 2^46 is half of what an x86-64 process can map; the sum of all slots is checked by mmap.
  if (slot_nbytes == 0 || slot_nbytes > (std::uint64_t{1} << 46)) {
    throw ArgumentError("slot_nbytes is " + std::to_string(slot_nbytes) + ", must be 1 to 2^46");
  }
  const Geometry geometry{num_slots, num_readers, round_up(slot_nbytes, kSlotAlignment)};
  const std::uint64_t total_nbytes = geometry.total_nbytes().value();

  std::vector<WakeFd> wake_fds;
  for (std::uint32_t reader = 0; reader < num_readers; ++reader) {
    wake_fds.push_back(WakeFd::create());
  }
  std::shared_ptr<Ring> ring(
      new Ring(Segment::create(total_nbytes), geometry, std::move(wake_fds)));
  auto& header = ring->at<RingHeader>(0);
  header.magic = kMagic;
  header.num_slots = num_slots;
  header.num_readers = num_readers;
  header.index_capacity = geometry.index_capacity();
  header.slot_nbytes = geometry.slot_nbytes;
  header.total_nbytes = total_nbytes;
  ring->producer_line().length.store(Length::kNotAskedYet, std::memory_order_relaxed);
  ring->enter(Activity::kStarting);
  // SYNC POINT V: the geometry above happens before any attach that sees this version.
  header.version.store(kLayoutVersion, std::memory_order_release);
  return ring;
}

std::shared_ptr<Ring> Ring::attach(std::shared_ptr<Segment> segment, std::vector<WakeFd> wake_fds) {
  if (segment->nbytes() < sizeof(RingHeader)) {
    throw CorruptSegment("the segment is smaller than a ring's header");
  }
  const auto& header = *reinterpret_cast<const RingHeader*>(segment->data());
  // SYNC POINT V, reading side.
  const std::uint32_t version = header.version.load(std::memory_order_acquire);
  if (version == 0) throw CorruptSegment("the ring is not ready: its maker has not finished it");
  if (header.magic != kMagic) throw CorruptSegment("the segment holds no fkat.data ring");
  if (version != kLayoutVersion) {
    throw CorruptSegment("the ring has layout version " + std::to_string(version) +
                         ", this build reads version " + std::to_string(kLayoutVersion));
  }
  const Geometry geometry{header.num_slots, header.num_readers, header.slot_nbytes};
  const auto total_nbytes = geometry.total_nbytes();
  if (!total_nbytes || *total_nbytes != segment->nbytes() || header.total_nbytes != *total_nbytes ||
      header.index_capacity != geometry.index_capacity()) {
    throw CorruptSegment(
        "the ring's header contradicts itself: " + std::to_string(geometry.num_slots) +
        " slots of " + std::to_string(geometry.slot_nbytes) + " bytes in a segment of " +
        std::to_string(segment->nbytes()) + " bytes");
  }
  if (!wake_fds.empty() && wake_fds.size() != geometry.num_readers) {
    throw ArgumentError("a ring with " + std::to_string(geometry.num_readers) + " readers has " +
                        std::to_string(geometry.num_readers) + " eventfds, not " +
                        std::to_string(wake_fds.size()));
  }
  return std::shared_ptr<Ring>(new Ring(std::move(segment), geometry, std::move(wake_fds)));
}

const WakeFd& Ring::wake_fd(std::uint32_t reader) const {
  if (wake_fds_.empty()) throw ArgumentError("the ring was attached to be looked at only");
  return wake_fds_.at(reader);
}

void Ring::release_share(std::uint32_t slot) const {
  SlotLine& line = slot_line(slot);
  // Acquire-release: the other readers' reads happen before the last one frees the slot.
  if (line.readers_left.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  FKAT_CRASH_POINT("trainer.release");
  // SYNC POINT F: every read of the slot's bytes happens before the producer's next write. And
  // SYNC POINT G: before the look at retired_ that a lease then takes, in give_back.
  line.state.store(SlotState::kFree, std::memory_order_seq_cst);
  FKAT_CRASH_POINT("trainer.released");
  trainer_line().freed.ring();
}

void Ring::retire() {
  if (getpid() != owner_ || retired_.exchange(true, std::memory_order_seq_cst)) return;
  for (std::uint32_t slot = 0; slot < geometry_.num_slots; ++slot) give_back(slot);
}

void Ring::give_back(std::uint32_t slot) const noexcept {
  SlotLine& line = slot_line(slot);
  // SYNC POINT G, looking side: all that stands in the way, the page-lock last. Before the look at
  // the state a slot could still be LEASED and get page-locked behind our back.
  if (!retired_.load(std::memory_order_seq_cst)) return;
  // Taken from a reader that asks for one more microbatch all the same, and then finds it gone.
  SlotState state = SlotState::kReady;
  line.state.compare_exchange_strong(state, SlotState::kFree, std::memory_order_seq_cst);
  if (state == SlotState::kLeased) return;
  if (line.pinned_nbytes.load(std::memory_order_seq_cst) != 0) return;
  try {
    // All of its address space: what a producer that was killed has written is said nowhere.
    segment_->decommit(slot_offset(slot), geometry_.slot_nbytes);
  } catch (const std::exception&) {
    // It stays as long as somebody maps the ring, as it would without us.
  }
}

void Ring::stop() const {
  TrainerLine& line = trainer_line();
  line.stop.store(1, std::memory_order_seq_cst);
  line.demand.ring();
  line.freed.ring();
}

void Ring::enter(Activity activity) const {
  const std::uint64_t now = monotonic_ns() & ~kActivityMask;
  producer_line().activity.store(now | static_cast<std::uint64_t>(activity),
                                 std::memory_order_relaxed);
}

// All loads are relaxed: the numbers are shown, and nothing is read that they would guard.
RingView Ring::look() const {
  RingView view{};
  const std::uint64_t word = producer_line().activity.load(std::memory_order_relaxed);
  view.activity = static_cast<Activity>(word & kActivityMask);
  const std::uint64_t now = monotonic_ns();
  view.since = std::chrono::nanoseconds(now - std::min(now, word & ~kActivityMask));
  const std::uint64_t num_read = reader_line(0).acquired_seq.load(std::memory_order_relaxed);
  const std::uint64_t published = producer_line().published_seq.load(std::memory_order_relaxed);
  view.num_unread = published - std::min(published, num_read);
  for (std::uint32_t slot = 0; slot < geometry_.num_slots; ++slot) {
    const SlotLine& line = slot_line(slot);
    const SlotState state = line.state.load(std::memory_order_relaxed);
    const auto number = static_cast<std::size_t>(state);
    if (number < view.slots.size()) ++view.slots[number];  // else the line is damaged
    if (state == SlotState::kLeased) {
      view.leased_nbytes += line.committed_nbytes.load(std::memory_order_relaxed);
    }
  }
  return view;
}

std::uint64_t checksum(const IndexEntry& entry) {
  return checksum_words(
      {reinterpret_cast<const std::byte*>(&entry), offsetof(IndexEntry, checksum)});
}

}  // namespace fkat
