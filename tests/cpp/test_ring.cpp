// Making and attaching a ring: every way in which a segment can be no ring has its own words.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "check.h"
#include "ring/consumer.h"
#include "ring/producer.h"

namespace fkat {
namespace {

RingHeader& header_of(Segment& segment) {
  return *reinterpret_cast<RingHeader*>(segment.data());
}

// A segment with a header made by hand, as another build or program could have left it.
std::shared_ptr<Segment> handmade(std::uint64_t nbytes = 6 * MiB) {
  auto segment = Segment::create(nbytes);
  RingHeader& header = header_of(*segment);
  header.magic = kMagic;
  header.num_slots = 2;
  header.num_readers = 1;
  header.index_capacity = 8;
  header.slot_nbytes = 2 * MiB;
  header.total_nbytes = 6 * MiB;
  header.version.store(kLayoutVersion);
  return segment;
}

TEST(create_names_the_argument_that_is_wrong) {
  CHECK_THROWS(ArgumentError, Ring::create(0, MiB), "num_slots is 0");
  CHECK_THROWS(ArgumentError, Ring::create(kMaxSlots + 1, MiB), "num_slots is 4097");
  CHECK_THROWS(ArgumentError, Ring::create(2, MiB, 0), "num_readers is 0");
  CHECK_THROWS(ArgumentError, Ring::create(2, MiB, kMaxReaders + 1), "num_readers is 65");
  CHECK_THROWS(ArgumentError, Ring::create(2, 0), "slot_nbytes is 0");
  CHECK_THROWS(ArgumentError, Ring::create(2, (std::uint64_t{1} << 46) + 1), "slot_nbytes is");
}

TEST(attach_takes_a_handmade_ring) {
  const auto ring = Ring::attach(handmade());
  CHECK_EQ(ring->geometry().num_slots, 2);
  CHECK_EQ(ring->geometry().slot_nbytes, 2 * MiB);
}

TEST(attach_refuses_a_segment_smaller_than_a_header) {
  CHECK_THROWS(CorruptSegment, Ring::attach(Segment::create(64)), "smaller than a ring's header");
}

TEST(attach_refuses_a_ring_that_is_not_ready) {
  CHECK_THROWS(CorruptSegment, Ring::attach(Segment::create(6 * MiB)), "not ready");
  const auto segment = handmade();
  header_of(*segment).version.store(0);
  CHECK_THROWS(CorruptSegment, Ring::attach(segment), "not ready");
}

TEST(attach_refuses_other_contents) {
  const auto segment = handmade();
  header_of(*segment).magic ^= 1;
  CHECK_THROWS(CorruptSegment, Ring::attach(segment), "holds no fkat.data ring");
}

TEST(attach_names_both_versions) {
  const auto segment = handmade();
  header_of(*segment).version.store(77);
  CHECK_THROWS(CorruptSegment, Ring::attach(segment),
               "layout version 77, this build reads version 2");
}

template <typename Change>
void check_contradiction(const Change& change) {
  const auto segment = handmade();
  change(header_of(*segment));
  CHECK_THROWS(CorruptSegment, Ring::attach(segment), "contradicts itself");
}

TEST(attach_refuses_a_header_that_contradicts_itself) {
  check_contradiction([](RingHeader& header) { header.num_slots = 3; });
  check_contradiction([](RingHeader& header) { header.num_slots = 0; });
  check_contradiction([](RingHeader& header) { header.num_slots = ~0u; });
  check_contradiction([](RingHeader& header) { header.num_readers = 0; });
  check_contradiction([](RingHeader& header) { header.num_readers = kMaxReaders + 1; });
  check_contradiction([](RingHeader& header) { header.index_capacity = 16; });
  check_contradiction([](RingHeader& header) { header.index_capacity = 0; });
  check_contradiction([](RingHeader& header) { header.slot_nbytes = 4 * MiB; });
  check_contradiction([](RingHeader& header) { header.slot_nbytes = 0; });
  check_contradiction([](RingHeader& header) { header.slot_nbytes = ~std::uint64_t{0}; });
  check_contradiction([](RingHeader& header) { header.total_nbytes -= 1; });
}

TEST(attach_refuses_a_segment_of_another_size_than_its_header_says) {
  CHECK_THROWS(CorruptSegment, Ring::attach(handmade(4 * MiB)), "contradicts itself");
  CHECK_THROWS(CorruptSegment, Ring::attach(handmade(8 * MiB)), "contradicts itself");
}

TEST(two_mappings_are_one_ring) {
  const auto ring = Ring::create(2, MiB);
  const auto other = Ring::attach(Segment::attach(ring->segment().fd()));
  CHECK(ring->segment().data() != other->segment().data());
  ring->producer_line().published_seq.store(41);
  CHECK_EQ(other->producer_line().published_seq.load(), 41);
  other->slot_data(1)[7] = std::byte{9};
  CHECK(ring->slot_data(1)[7] == std::byte{9});
  CHECK_EQ(ring->slot_offset(1), other->slot_offset(1));
}

TEST(who_attaches_without_wake_fds_only_looks) {
  const auto ring = Ring::create(2, MiB, 2);
  const auto other = Ring::attach(Segment::attach(ring->segment().fd()));
  CHECK_THROWS(ArgumentError, Producer(other, MiB), "to be looked at only");
  CHECK_THROWS(ArgumentError, Consumer(other, 0, 1, 1), "to be looked at only");
  std::vector<WakeFd> one;
  one.emplace_back(ring->wake_fd(1).fd());
  CHECK_THROWS(ArgumentError, Ring::attach(Segment::attach(ring->segment().fd()), std::move(one)),
               "2 eventfds, not 1");
}

TEST(parts_stand_at_their_offsets) {
  const auto ring = Ring::create(2, MiB, 2);
  const Geometry& geometry = ring->geometry();
  const auto offset_of = [&](const auto& part) {
    return static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(&part) -
                                      ring->segment().data());
  };
  CHECK_EQ(offset_of(ring->producer_line()), 128);
  CHECK_EQ(offset_of(ring->trainer_line()), 256);
  CHECK_EQ(offset_of(ring->reader_line(1)), 384 + 256);
  CHECK_EQ(offset_of(ring->slot_line(1)), geometry.slot_lines_offset() + 128);
  CHECK_EQ(offset_of(ring->index_entry(3)), geometry.index_offset() + 3 * 64);
  CHECK_EQ(offset_of(ring->index_entry(8 + 3)), geometry.index_offset() + 3 * 64);
  CHECK_EQ(offset_of(*ring->slot_data(1)), geometry.slots_offset() + 2 * MiB);
}

TEST(a_geometry_changed_after_attach_moves_nothing) {
  const auto ring = Ring::attach(handmade());
  std::byte* before = ring->slot_data(1);
  header_of(ring->segment()).slot_nbytes = 1 << 30;
  CHECK(ring->slot_data(1) == before);
}

}  // namespace
}  // namespace fkat
