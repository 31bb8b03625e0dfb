// Damages a ring with published microbatches in every way that a seed gives, and reads it: the
// outcome is data or an error that says so, never a crash, a hang, or a byte outside the frame.
//
// Most damage is found by the checksums, and proves little about what stands behind them; so every
// second mutation signs the damaged index entry and frame again. Meant for the asan preset.

#include <algorithm>
#include <array>
#include <random>
#include <string_view>

#include "base/checksum.h"
#include "base/error.h"
#include "ring/frame.h"
#include "ring_pair.h"

namespace fkat {
namespace {

constexpr std::uint32_t kSlots = 5;
constexpr std::uint32_t kMicrobatches = 3;
constexpr std::uint32_t kRecords = kMicrobatches + 2;  // a request to unpin, an error
constexpr std::uint64_t kUnit = 64 * KiB;              // what a slot grows by
constexpr std::uint64_t kErrorTextUsed = 64;

struct Range {
  std::uint64_t offset;
  std::uint64_t nbytes;
};

class Fuzz {
 public:
  Fuzz() {
    pair_.begin_pass();
    warm();
    for (std::uint32_t i = 0; i < kMicrobatches; ++i) publish(i);
    ask_to_unpin();
    const std::string text(kErrorTextUsed, 'e');
    pair_.producer.publish_error(pair_.pass, kMicrobatches, std::as_bytes(std::span(text)));
    // So that the begin_pass of every later reader asks for the pass that was published.
    pair_.ring->trainer_line().version.store(0);

    const Geometry& geometry = pair_.ring->geometry();
    ranges_.push_back({0, geometry.error_offset() + kErrorTextUsed});
    for (std::uint32_t i = 0; i < kMicrobatches; ++i) {
      ranges_.push_back({pair_.ring->slot_offset(frames_[i].slot), frames_[i].nbytes});
    }
    for (const Range& range : ranges_) {
      const std::byte* from = pair_.ring->segment().data() + range.offset;
      pristine_.emplace_back(from, from + range.nbytes);
    }
  }

  void run(long num_mutations) {
    for (long i = 0; i < num_mutations; ++i) {
      restore();
      if (i != 0) mutate();
      if (random_() % 2 == 0) sign();
      read();
      if (i == 0) CHECK_EQ(num_whole_, kRecords);
    }
    std::printf("%ld mutations: %ld records read, %ld CorruptSegment, %ld ArgumentError\n",
                num_mutations, num_whole_, num_corrupt_, num_argument_);
    for (const auto& [what, count] : whats_) std::printf("  %8ld %s\n", count, what.c_str());
    CHECK(num_whole_ > kRecords);
    CHECK(num_corrupt_ > 0);
  }

 private:
  struct Published {
    std::uint32_t slot;
    std::uint64_t nbytes;
  };

  // Every slot has as much memory as a microbatch needs, and that is the budget.
  void warm() {
    std::array<std::uint32_t, kSlots> slots{};
    for (std::uint32_t& slot : slots) {
      CHECK(pair_.producer.claim(pair_.pass, kUnit, slot, kNoWait) == Turn::kGo);
    }
    for (const std::uint32_t slot : slots) pair_.producer.abandon(slot);
  }

  // The last slot is pinned, and the one before it would have to grow.
  void ask_to_unpin() {
    pair_.ring->slot_line(kSlots - 1).pinned_nbytes.store(kUnit);
    CHECK(pair_.try_publish(kMicrobatches, 2 * kUnit) == Turn::kWait);
    CHECK(pair_.ring->index_entry(kMicrobatches).kind == RecordKind::kReclaim);
  }

  void publish(std::uint32_t i) {
    std::vector<std::byte> memory(4 * 24, std::byte{0x11});
    const std::int64_t matrix[] = {4, 6}, matrix_strides[] = {1, 4};
    const std::int64_t vector[] = {24}, one[] = {1}, nothing[] = {0};
    const std::vector<LeafSource> leaves{
        {LeafKind::kTensor, {2, 32, 1}, memory.data(), matrix, matrix_strides},
        {LeafKind::kArray, {0, 8, 1}, memory.data(), vector, one},
        {LeafKind::kTensor, {0, 64, 1}, memory.data(), {}, {}},
        {LeafKind::kTensor, {2, 16, 1}, memory.data(), nothing, one},
    };
    const std::string_view structure = "structure";
    const std::span<const LeafSource> some(leaves.data(), i + 2);
    const FrameWriter writer(some, std::as_bytes(std::span<const char>(structure)));
    std::uint32_t slot = 0;
    CHECK(pair_.producer.claim(pair_.pass, writer.nbytes(), slot, kNoWait) == Turn::kGo);
    writer.write(pair_.producer.slot_data(slot));
    pair_.producer.publish(pair_.pass, i, slot, writer.nbytes());
    frames_[i] = {slot, writer.nbytes()};
  }

  std::byte* data() const { return pair_.ring->segment().data(); }

  void restore() {
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      std::memcpy(data() + ranges_[i].offset, pristine_[i].data(), pristine_[i].size());
    }
  }

  void mutate() {
    const Range range = pick_range();
    const std::uint64_t at = random_() % range.nbytes;
    if (random_() % 2 == 0) {
      const std::uint64_t nbytes = std::min<std::uint64_t>(1 + random_() % 64, range.nbytes - at);
      for (std::uint64_t i = 0; i < nbytes; ++i) {
        data()[range.offset + at + i] = std::byte(random_() & 0xFF);
      }
    } else {
      const std::size_t width = random_() % 2 == 0 ? 4 : 8;
      const std::uint64_t aligned = std::min(at / width * width, range.nbytes - width);
      const std::uint64_t word = telling_word();
      std::memcpy(data() + range.offset + aligned, &word, width);
    }
  }

  // A part that is parsed: all of the control area, a part of it, or a frame's header and table.
  Range pick_range() {
    const Geometry& geometry = pair_.ring->geometry();
    switch (random_() % 5) {
      case 0:
        return ranges_[0];
      case 1:
        return {0, sizeof(RingHeader)};
      case 2:
        return {geometry.index_offset(), kRecords * sizeof(IndexEntry)};
      default: {
        const Range frame = ranges_[1 + random_() % kMicrobatches];
        return {frame.offset, std::min<std::uint64_t>(frame.nbytes, 256)};
      }
    }
  }

  std::uint64_t telling_word() {
    switch (random_() % 6) {
      case 0:
        return 0;
      case 1:
        return ~std::uint64_t{0};
      case 2:
        return std::uint64_t{1} << random_() % 64;
      case 3:
        return 256 * (random_() % 16);
      default:
        return random_() % 300;
    }
  }

  // What a writer with other ideas would have signed.
  void sign() {
    for (std::uint64_t seq = 0; seq < kRecords; ++seq) {
      IndexEntry& entry = pair_.ring->index_entry(seq);
      entry.checksum = checksum(entry);
    }
    for (std::uint32_t i = 0; i < kMicrobatches; ++i) {
      std::byte* frame = pair_.ring->slot_data(frames_[i].slot);
      std::uint64_t table_nbytes;
      std::memcpy(&table_nbytes, frame + 16, 8);
      const std::size_t nbytes = std::min<std::uint64_t>(table_nbytes, frames_[i].nbytes - 64);
      const std::uint64_t sum = checksum_words({frame + 8, 56 + nbytes});
      std::memcpy(frame, &sum, 8);
    }
  }

  void read() {
    try {
      const auto ring = Ring::attach(segment_, wake_fds_of(*pair_.ring));
      Consumer consumer(ring, 0, 2, static_cast<std::uint32_t>(random_() % kSlots));
      consumer.begin_pass(0, 0);
      // At most as many records as an index of this size can make whole: no endless loop.
      for (std::uint32_t i = 0; i <= ring->geometry().index_capacity(); ++i) {
        CHECK(i < ring->geometry().index_capacity());
        const auto record = consumer.try_acquire();
        if (!record) break;
        check_slot(*record);
        if (record->kind == RecordKind::kMicrobatch)
          touch(record->bytes);
        else
          CHECK(record->error.size() <= kErrorNbytes);
        ++num_whole_;
      }
      CHECK_EQ(consumer.outstanding_leases(), 0);
    } catch (const CorruptSegment& error) {
      ++num_corrupt_;
      count(error.what());
    } catch (const ArgumentError& error) {
      ++num_argument_;
      count(error.what());
    }
  }

  // What a reader would page-lock lies within a slot.
  void check_slot(const Record& record) const {
    const Geometry& geometry = pair_.ring->geometry();
    CHECK(record.slot < geometry.num_slots);
    CHECK(record.committed_nbytes <= geometry.slot_nbytes);
    CHECK_EQ(record.committed_nbytes % 4096, 0);
    const bool is_view = record.kind == RecordKind::kMicrobatch && !record.is_copy;
    if (is_view) CHECK(record.committed_nbytes >= record.bytes.size());
  }

  void count(std::string what) {
    std::erase_if(what, [](char c) { return c >= '0' && c <= '9'; });
    const auto known = std::find_if(whats_.begin(), whats_.end(),
                                    [&](const auto& entry) { return entry.first == what; });
    if (known == whats_.end())
      whats_.emplace_back(what, 1);
    else
      ++known->second;
  }

  // Reads all that a user could, from memory of exactly the frame's size: the address sanitizer
  // sees a byte too many, which in the segment would be a byte of the next slot.
  void touch(std::span<const std::byte> bytes) {
    const std::vector<std::byte> copy(bytes.begin(), bytes.end());
    const Frame frame(copy);
    CHECK(frame.structure_offset + frame.structure_nbytes <= copy.size());
    CHECK(frame.tensors_offset + frame.tensors_nbytes <= copy.size());
    for (const Leaf& leaf : frame.leaves) {
      for (std::uint64_t at = 0; at < leaf.nbytes; ++at) {
        touched_ = touched_ + std::to_integer<unsigned>(copy[leaf.offset + at]);
      }
      if (leaf.nbytes != 0) touch_elements(copy.data() + leaf.offset, leaf);
    }
  }

  // The first and the last element, as shape and strides say.
  void touch_elements(const std::byte* first, const Leaf& leaf) {
    std::int64_t last = 0;
    for (int i = 0; i < leaf.ndim; ++i) last += (leaf.shape()[i] - 1) * leaf.strides()[i];
    const auto itemsize = static_cast<std::int64_t>(leaf.dtype.itemsize());
    touched_ = touched_ + std::to_integer<unsigned>(first[0]) +
               std::to_integer<unsigned>(first[last * itemsize + itemsize - 1]);
  }

  RingPair pair_{{.num_slots = kSlots,
                  .num_prefetches = kSlots,
                  .max_leases = 3,
                  .budget_nbytes = kSlots * kUnit}};
  std::shared_ptr<Segment> segment_ = Segment::attach(pair_.ring->segment().fd());
  std::array<Published, kMicrobatches> frames_{};
  std::vector<Range> ranges_;                     // the control area, then each frame
  std::vector<std::vector<std::byte>> pristine_;  // their bytes
  std::mt19937_64 random_{20'240'607};
  volatile unsigned touched_ = 0;
  long num_whole_ = 0;
  long num_corrupt_ = 0;
  long num_argument_ = 0;
  std::vector<std::pair<std::string, long>> whats_;
};

TEST(damage_gives_data_or_an_error) {
  Fuzz fuzz;
  fuzz.run(check::rounds(100'000));
}

}  // namespace
}  // namespace fkat
