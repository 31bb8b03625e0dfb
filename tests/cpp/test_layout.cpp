// The layout is a promise: these numbers may change only together with kLayoutVersion.

#include <cstring>

#include "check.h"
#include "ring/layout.h"
#include "ring/ring.h"

namespace fkat {
namespace {

static_assert(offsetof(RingHeader, magic) == 0);
static_assert(offsetof(RingHeader, version) == 8);
static_assert(offsetof(RingHeader, num_slots) == 12);
static_assert(offsetof(RingHeader, num_readers) == 16);
static_assert(offsetof(RingHeader, index_capacity) == 20);
static_assert(offsetof(RingHeader, slot_nbytes) == 24);
static_assert(offsetof(RingHeader, total_nbytes) == 32);

static_assert(offsetof(ProducerLine, published_seq) == 0);
static_assert(offsetof(ProducerLine, length) == 8);
static_assert(offsetof(ProducerLine, activity) == 16);

static_assert(offsetof(TrainerLine, version) == 0);
static_assert(offsetof(TrainerLine, epoch) == 8);
static_assert(offsetof(TrainerLine, start) == 16);
static_assert(offsetof(TrainerLine, stop) == 24);
static_assert(offsetof(TrainerLine, demand) == 28);
static_assert(offsetof(TrainerLine, freed) == 36);

static_assert(offsetof(ReaderLine, acquired_seq) == 0);
static_assert(offsetof(ReaderLine, granted_seq) == 8);
static_assert(offsetof(ReaderLine, published) == 128);

static_assert(offsetof(SlotLine, state) == 0);
static_assert(offsetof(SlotLine, readers_left) == 4);
static_assert(offsetof(SlotLine, committed_nbytes) == 8);
static_assert(offsetof(SlotLine, pinned_nbytes) == 16);

static_assert(offsetof(IndexEntry, slot) == 4);
static_assert(offsetof(IndexEntry, pass) == 8);
static_assert(offsetof(IndexEntry, position) == 16);
static_assert(offsetof(IndexEntry, nbytes) == 24);
static_assert(offsetof(IndexEntry, seq) == 32);
static_assert(offsetof(IndexEntry, checksum) == 40);

TEST(parts_stand_where_the_drawing_says) {
  const Geometry geometry{2, 1, 2 * MiB};
  CHECK_EQ(geometry.index_capacity(), 8);
  CHECK_EQ(geometry.readers_offset(), 384);
  CHECK_EQ(geometry.slot_lines_offset(), 640);
  CHECK_EQ(geometry.index_offset(), 896);
  CHECK_EQ(geometry.error_offset(), 1408);
  CHECK_EQ(geometry.slots_offset(), 2 * MiB);
  CHECK_EQ(geometry.total_nbytes().value(), 6 * MiB);
}

TEST(more_readers_and_slots_move_what_follows) {
  const Geometry geometry{5, 3, 4 * MiB};
  CHECK_EQ(geometry.index_capacity(), 16);
  CHECK_EQ(geometry.slot_lines_offset(), 384 + 3 * 256);
  CHECK_EQ(geometry.index_offset(), 384 + 3 * 256 + 5 * 128);
  CHECK_EQ(geometry.error_offset(), 384 + 3 * 256 + 5 * 128 + 16 * 64);
}

TEST(the_index_holds_every_slot_and_two_records_more) {
  for (std::uint32_t num_slots = 1; num_slots <= kMaxSlots; ++num_slots) {
    const std::uint32_t capacity = Geometry{num_slots, 1, kSlotAlignment}.index_capacity();
    CHECK(capacity >= num_slots + 2);
    CHECK_EQ(capacity & (capacity - 1), 0);
  }
}

TEST(parts_never_overlap) {
  for (const std::uint32_t num_slots : {1u, 2u, 7u, 64u, kMaxSlots}) {
    for (const std::uint32_t num_readers : {1u, 2u, kMaxReaders}) {
      const Geometry geometry{num_slots, num_readers, kSlotAlignment};
      CHECK(geometry.slots_offset() >= geometry.error_offset() + kErrorNbytes);
      CHECK_EQ(geometry.slots_offset() % kSlotAlignment, 0);
      CHECK_EQ(geometry.index_offset() % alignof(IndexEntry), 0);
    }
  }
}

TEST(numbers_out_of_range_have_no_size) {
  CHECK(!Geometry({0, 1, kSlotAlignment}).total_nbytes());
  CHECK(!Geometry({kMaxSlots + 1, 1, kSlotAlignment}).total_nbytes());
  CHECK(!Geometry({2, 0, kSlotAlignment}).total_nbytes());
  CHECK(!Geometry({2, kMaxReaders + 1, kSlotAlignment}).total_nbytes());
  CHECK(!Geometry({2, 1, 0}).total_nbytes());
  CHECK(!Geometry({2, 1, kSlotAlignment + 1}).total_nbytes());
  CHECK(!Geometry({2, 1, std::uint64_t{1} << 63}).total_nbytes());
  CHECK(!Geometry({~0u, ~0u, ~std::uint64_t{0}}).total_nbytes());
}

TEST(the_header_of_a_new_ring_byte_by_byte) {
  const auto ring = Ring::create(3, 5 * MiB, 2);
  const unsigned char expected[40] = {
      'f', 'k', 'a',  't', 'r', 'i', 'n', 'g',  // magic
      2,   0,   0,    0,                        // version
      3,   0,   0,    0,                        // num_slots
      2,   0,   0,    0,                        // num_readers
      8,   0,   0,    0,                        // index_capacity
      0,   0,   0x60, 0,   0,   0,   0,   0,    // slot_nbytes: 6 MiB, rounded up
      0,   0,   0x40, 1,   0,   0,   0,   0,    // total_nbytes: 2 + 3 * 6 MiB
  };
  CHECK_EQ(std::memcmp(ring->segment().data(), expected, sizeof expected), 0);
}

TEST(a_checksum_covers_every_field_before_it) {
  const IndexEntry entry{RecordKind::kMicrobatch, 1, 2, 3, 4, 5, 0, {}};
  for (std::size_t bit = 0; bit < 8 * offsetof(IndexEntry, checksum); ++bit) {
    unsigned char bytes[sizeof entry];
    std::memcpy(bytes, &entry, sizeof entry);
    bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1u << bit % 8));
    IndexEntry flipped;
    std::memcpy(&flipped, bytes, sizeof flipped);
    CHECK(checksum(flipped) != checksum(entry));
  }
}

}  // namespace
}  // namespace fkat
