// Microbatches that are made in their slot: what was placed is published as it lies there.

#include <array>

#include "base/error.h"
#include "check.h"
#include "ring/draft.h"
#include "ring_pair.h"

namespace fkat {
namespace {

constexpr DType kByte{1, 8, 1};

// Says where a leaf of one dimension lies, and how long it is.
struct Bytes {
  std::array<std::int64_t, 1> shape;
  std::array<std::int64_t, 1> strides{1};

  LeafSource at(const std::byte* data, std::uint64_t placed) const {
    return {LeafKind::kTensor, kByte, data, shape, strides, placed};
  }
};

TEST(a_draft_hands_out_aligned_memory_until_it_is_full) {
  alignas(kLeafAlignment) std::array<std::byte, 2048> memory;
  Draft draft(3, memory.data(), memory.size(), 300);
  CHECK_EQ(draft.slot(), 3);
  CHECK(draft.allocate(1) == memory.data() + 512);
  CHECK(draft.allocate(1281) == nullptr);
  CHECK(draft.allocate(~std::uint64_t{0}) == nullptr);
  CHECK(draft.allocate(1024) == memory.data() + 768);
  CHECK(draft.allocate(257) == nullptr);
  CHECK(draft.allocate(256) == memory.data() + 1792);
  CHECK(draft.allocate(1) == nullptr);
}

TEST(a_head_larger_than_the_slot_leaves_no_room) {
  std::array<std::byte, 256> memory;
  Draft draft(0, memory.data(), memory.size(), 300);
  CHECK(draft.allocate(0) == nullptr);
  CHECK(draft.allocate(1) == nullptr);
}

TEST(only_what_was_handed_out_and_is_aligned_is_placed) {
  alignas(kLeafAlignment) std::array<std::byte, 2048> memory;
  std::array<std::byte, 8> other;
  Draft draft(0, memory.data(), memory.size(), 256);
  std::byte* const bytes = draft.allocate(600);
  CHECK_EQ(draft.offset_of(bytes, 600), 256);
  CHECK_EQ(draft.offset_of(bytes + 256, 344), 512);
  CHECK_EQ(draft.offset_of(bytes + 8, 16), 0);
  CHECK_EQ(draft.offset_of(bytes, 2000), 0);
  CHECK_EQ(draft.offset_of(memory.data() + 1536, 1), 0);
  CHECK_EQ(draft.offset_of(other.data(), other.size()), 0);
}

TEST(it_is_held_until_the_last_holder_is_gone) {
  std::array<std::byte, 512> memory;
  Draft draft(0, memory.data(), memory.size(), 0);
  CHECK(!draft.is_held());
  auto one = draft.holder();
  auto other = draft.holder();
  const auto copy = one;
  CHECK(draft.is_held());
  one.reset();
  other.reset();
  CHECK(draft.is_held());
  const Draft moved = std::move(draft);
  CHECK(moved.is_held());
}

TEST(placed_and_copied_leaves_come_back_together) {
  alignas(kLeafAlignment) std::array<std::byte, 4096> slot;
  Draft draft(0, slot.data(), slot.size(), 1024);
  std::byte* const placed = draft.allocate(600);
  fill_words(placed, 600, 7);
  std::array<std::byte, 80> elsewhere;
  fill_words(elsewhere.data(), elsewhere.size(), 8);
  const Bytes first{{600}}, second{{80}}, part{{88}};
  const std::array<LeafSource, 3> leaves{second.at(elsewhere.data(), 0),
                                         first.at(placed, draft.offset_of(placed, 600)),
                                         part.at(placed + 512, draft.offset_of(placed + 512, 88))};
  const FrameWriter writer(leaves, std::as_bytes(std::span("structure")));
  CHECK(writer.head_fits());
  CHECK(writer.nbytes() <= slot.size());
  writer.write(slot.data());
  const Frame frame({slot.data(), writer.nbytes()});
  CHECK_EQ(frame.leaves.size(), 3);
  check_words({slot.data() + frame.leaves[0].offset, 80}, 8);
  CHECK_EQ(frame.leaves[1].offset, 1024);
  check_words({slot.data() + 1024, 600}, 7);
  CHECK_EQ(frame.leaves[2].offset, 1536);
  CHECK_EQ(frame.tensors_offset, 1024);
}

TEST(a_head_that_does_not_fit_is_told) {
  alignas(kLeafAlignment) std::array<std::byte, 4096> slot;
  Draft draft(0, slot.data(), slot.size(), 256);
  std::byte* const placed = draft.allocate(600);
  const Bytes leaf{{600}};
  const std::array<LeafSource, 1> leaves{leaf.at(placed, draft.offset_of(placed, 600))};
  const std::array<std::byte, 300> structure{};
  CHECK(FrameWriter(leaves, {structure.data(), 10}).head_fits());
  CHECK(!FrameWriter(leaves, structure).head_fits());
  CHECK(FrameWriter({}, structure).head_fits());
}

TEST(a_producer_guesses_the_size_by_what_it_published) {
  RingPair p({.num_slots = 3});
  p.begin_pass();
  CHECK(!p.producer.try_draft(256));
  p.publish(0);
  p.acquire(0);
  auto draft = p.producer.try_draft(256);
  CHECK(draft.has_value());
  fill_words(p.producer.slot_data(draft->slot()), 64, 1);
  p.producer.publish_draft(p.pass, 1, draft->slot(), 64);
  p.acquire(1);
}

TEST(without_a_free_slot_there_is_no_draft_and_no_wait) {
  RingPair p({.num_slots = 2});
  p.begin_pass();
  p.publish(0);
  p.publish(1);
  CHECK(!p.producer.try_draft(256));
  p.acquire(0);
  CHECK(p.producer.try_draft(256).has_value());
}

TEST(an_abandoned_draft_is_a_free_slot) {
  RingPair p({.num_slots = 2});
  p.begin_pass();
  p.publish(0);
  p.acquire(0);
  for (int i = 0; i < 10; ++i) {
    const auto draft = p.producer.try_draft(0);
    CHECK(draft.has_value());
    p.producer.abandon(draft->slot());
  }
}

TEST(what_user_code_keeps_does_not_count_against_the_budget) {
  RingPair p({.num_slots = 4, .budget_nbytes = MiB});
  p.begin_pass();
  std::uint32_t slot = 0;
  CHECK(p.producer.claim(p.pass, MiB, slot, kNoWait) == Turn::kGo);
  p.producer.publish(p.pass, 0, slot, MiB);
  CHECK(p.consumer.try_acquire().has_value());
  const auto draft = p.producer.try_draft(0);
  CHECK(draft.has_value());
  CHECK(p.producer.claim(p.pass, MiB, slot, kNoWait) == Turn::kWait);
  p.producer.keep(draft->slot());
  CHECK(p.producer.claim(p.pass, MiB, slot, kNoWait) == Turn::kGo);
  p.producer.abandon(slot);
  p.producer.abandon(draft->slot());
  CHECK(p.producer.claim(p.pass, MiB, slot, kNoWait) == Turn::kGo);
  CHECK(p.producer.claim(p.pass, MiB, slot, kNoWait) == Turn::kWait);  // it counts again
}

}  // namespace
}  // namespace fkat
