// One microbatch's bytes: what is written is what is read; what was damaged is refused.

#include <array>
#include <cstring>
#include <functional>

#include "base/checksum.h"
#include "base/error.h"
#include "base/streaming_copy.h"
#include "check.h"
#include "ring/frame.h"

namespace fkat {
namespace {

constexpr DType kInt16{0, 16, 1};
constexpr DType kFloat32{2, 32, 1};
constexpr DType kInt64{0, 64, 1};

using Numbers = std::vector<std::int64_t>;

// A leaf that owns its memory: its bytes count up from `first`.
struct OwnedLeaf {
  DType dtype;
  Numbers shape;
  Numbers strides;
  LeafKind kind = LeafKind::kTensor;
  unsigned first = 1;
  std::vector<std::byte> memory = {};

  LeafSource source() {
    LeafSource leaf{kind, dtype, nullptr, shape, strides};
    memory.resize(leaf.nbytes());
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = std::byte((first + i) & 0xFF);
    leaf.data = memory.data();
    return leaf;
  }
};

std::vector<std::byte> written(std::vector<OwnedLeaf>& leaves, std::string_view structure) {
  std::vector<LeafSource> sources;
  for (OwnedLeaf& leaf : leaves) sources.push_back(leaf.source());
  const FrameWriter writer(sources, std::as_bytes(std::span(structure)));
  std::vector<std::byte> bytes(writer.nbytes());
  writer.write(bytes.data());
  return bytes;
}

void check_round_trip(std::vector<OwnedLeaf> leaves, std::string_view structure) {
  const auto bytes = written(leaves, structure);
  const Frame frame(bytes);
  CHECK_EQ(std::string_view(reinterpret_cast<const char*>(bytes.data()) + frame.structure_offset,
                            frame.structure_nbytes),
           structure);
  CHECK_EQ(frame.leaves.size(), leaves.size());
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Leaf& leaf = frame.leaves[i];
    const OwnedLeaf& expected = leaves[i];
    CHECK(leaf.kind == expected.kind);
    CHECK_EQ(leaf.dtype.code, expected.dtype.code);
    CHECK_EQ(leaf.dtype.bits, expected.dtype.bits);
    CHECK_EQ(leaf.dtype.lanes, expected.dtype.lanes);
    CHECK_EQ(leaf.ndim, expected.shape.size());
    CHECK(std::equal(expected.shape.begin(), expected.shape.end(), leaf.shape()));
    CHECK(std::equal(expected.strides.begin(), expected.strides.end(), leaf.strides()));
    CHECK_EQ(leaf.offset % kLeafAlignment, 0);
    CHECK_EQ(leaf.nbytes, expected.memory.size());
    CHECK(std::equal(expected.memory.begin(), expected.memory.end(),
                     bytes.begin() + static_cast<std::ptrdiff_t>(leaf.offset)));
  }
}

TEST(nothing_at_all_comes_back) {
  check_round_trip({}, "");
}
TEST(a_structure_alone_comes_back) {
  check_round_trip({}, "some pickle");
}
TEST(a_scalar_comes_back) {
  check_round_trip({{kInt64, {}, {}}}, "s");
}
TEST(an_empty_leaf_comes_back) {
  check_round_trip({{kFloat32, {0}, {1}}, {kFloat32, {3, 0, 2}, {0, 2, 1}}}, "s");
}
TEST(an_array_comes_back) {
  check_round_trip({{kInt16, {3}, {1}, LeafKind::kArray}}, "s");
}
TEST(channels_last_comes_back) {
  check_round_trip({{kFloat32, {2, 3, 4, 5}, {60, 1, 15, 3}}}, "s");
}
TEST(a_transpose_comes_back) {
  check_round_trip({{kInt16, {5, 7}, {1, 5}}}, "s");
}
TEST(sixty_four_dimensions_come_back) {
  check_round_trip({{kInt16, Numbers(64, 1), Numbers(64, 1)}}, "s");
}
TEST(vector_types_come_back) {
  check_round_trip({{{2, 32, 4}, {6}, {1}}}, "s");
}
TEST(many_leaves_come_back) {
  std::vector<OwnedLeaf> leaves;
  for (unsigned i = 0; i < 500; ++i) {
    leaves.push_back({i % 2 ? kInt16 : kFloat32, {i % 7, 3}, {3, 1}, LeafKind::kTensor, i});
  }
  check_round_trip(std::move(leaves), std::string(1000, 'p'));
}

TEST(large_leaves_begin_at_a_page_and_come_back) {
  const std::int64_t large = kLargeNbytes / 2;
  const std::vector<OwnedLeaf> leaves{{kInt16, {3}, {1}, LeafKind::kArray},
                                      {kInt16, {large}, {1}, LeafKind::kTensor, 2},
                                      {kInt16, {5}, {1}, LeafKind::kTensor, 3},
                                      {kInt16, {large, 1}, {1, 1}, LeafKind::kArray, 4},
                                      {kInt16, {large + 1}, {1}, LeafKind::kTensor, 5},
                                      {kInt16, {large - 1}, {1}, LeafKind::kTensor, 6}};
  check_round_trip(leaves, "s");
  auto copies = leaves;
  const auto bytes = written(copies, "s");
  std::vector<std::uint64_t> beginnings;
  for (const Leaf& leaf : Frame(bytes).leaves) {
    beginnings.push_back(leaf.offset % kLargeAlignment);
  }
  // The third and the last follow what is before them at once; the first stands behind all tensors.
  CHECK(beginnings == std::vector<std::uint64_t>({256, 0, 0, 0, 0, 256}));
}

TEST(what_is_copied_past_the_caches_comes_back) {
  const std::int64_t large = kStreamedNbytes;
  check_round_trip({{kInt16, {3}, {1}, LeafKind::kArray},
                    {kInt16, {large / 2 + 7}, {1}, LeafKind::kTensor, 2},
                    {kInt16, {0}, {1}, LeafKind::kTensor, 3},
                    {kInt16, {5}, {1}, LeafKind::kTensor, 4}},
                   "s");
}

bool dense(DType dtype, Numbers shape, Numbers strides) {
  return LeafSource{LeafKind::kTensor, dtype, nullptr, shape, strides}.is_dense();
}

TEST(dense_or_not) {
  CHECK(dense(kFloat32, {}, {}));
  CHECK(dense(kFloat32, {4}, {1}));
  CHECK(dense(kFloat32, {2, 3}, {3, 1}));
  CHECK(dense(kFloat32, {2, 3}, {1, 2}));                // transposed
  CHECK(dense(kFloat32, {2, 3, 4, 5}, {60, 1, 15, 3}));  // channels last
  CHECK(dense(kFloat32, {0}, {1}));
  CHECK(dense(kFloat32, {3, 0}, {100, 7}));  // nothing to reach
  CHECK(dense(kFloat32, {1, 4}, {999, 1}));  // a stride that is never taken
  CHECK(dense(kFloat32, {1, 1}, {-5, -7}));
  CHECK(!dense(kFloat32, {4}, {2}));        // every other element
  CHECK(!dense(kFloat32, {4}, {0}));        // expanded: four elements in one
  CHECK(!dense(kFloat32, {4}, {-1}));       // flipped
  CHECK(!dense(kFloat32, {2, 3}, {4, 1}));  // a padded row
  CHECK(!dense(kFloat32, {2, 2}, {3, 0}));  // holes and overlaps that add up
  CHECK(!dense(kFloat32, {-1}, {1}));
  CHECK(!dense(kFloat32, {3, 3}, {std::int64_t{1} << 62, 1}));  // overflows
}

TEST(a_small_frame_byte_by_byte) {
  std::vector<OwnedLeaf> leaves{{kInt16, {3}, {1}, LeafKind::kArray}};
  const auto bytes = written(leaves, "abc");
  CHECK_EQ(bytes.size(), 512);

  std::array<std::uint64_t, 13> words{};
  std::memcpy(words.data(), bytes.data(), sizeof words);
  CHECK_EQ(words[0], checksum_words(std::span(bytes).subspan(8, 56 + 40)));
  CHECK_EQ(words[1], 1);    // leaves
  CHECK_EQ(words[2], 40);   // bytes of the table: one record, one size, one stride
  CHECK_EQ(words[3], 3);    // bytes of the structure
  CHECK_EQ(words[4], 512);  // bytes of the frame
  CHECK_EQ(words[5] | words[6] | words[7], 0);
  CHECK_EQ(words[8], 256);  // where the leaf stands
  CHECK_EQ(words[9], 6);    // its bytes
  // dtype code 0, 16 bits, 1 lane; an array; 1 dimension
  CHECK_EQ(words[10], 0x0000'01'01'0001'10'00);
  CHECK_EQ(words[11], 3);  // shape
  CHECK_EQ(words[12], 1);  // stride
  CHECK_EQ(std::memcmp(bytes.data() + 104, "abc", 3), 0);
  const unsigned char payload[6] = {1, 2, 3, 4, 5, 6};
  CHECK_EQ(std::memcmp(bytes.data() + 256, payload, 6), 0);
}

// One copy takes all tensors to a device: they lie together, and nothing else lies among them.
TEST(tensors_stand_before_arrays_and_the_table_keeps_its_order) {
  std::vector<OwnedLeaf> leaves{{kInt16, {100}, {1}, LeafKind::kArray},
                                {kFloat32, {100}, {1}},
                                {kInt64, {3}, {1}, LeafKind::kArray},
                                {kFloat32, {0}, {1}},
                                {kInt16, {10}, {1}}};
  const auto bytes = written(leaves, "structure");
  const Frame frame(bytes);
  std::vector<std::uint64_t> offsets;
  for (const Leaf& leaf : frame.leaves) offsets.push_back(leaf.offset);
  // 64 + 5 * 40 bytes of header and table, 9 of structure: the first leaf stands at 512.
  CHECK(offsets == std::vector<std::uint64_t>({1280, 512, 1536, 1024, 1024}));
  CHECK_EQ(frame.tensors_offset, 512);
  CHECK_EQ(frame.tensors_nbytes, 512 + 20);
  check_round_trip(std::move(leaves), "structure");
}

TEST(a_frame_without_tensors_has_no_span_of_them) {
  for (std::vector<OwnedLeaf> leaves :
       {std::vector<OwnedLeaf>{}, {{kInt16, {3}, {1}, LeafKind::kArray}}}) {
    const Frame frame(written(leaves, "structure"));
    CHECK_EQ(frame.tensors_offset, 0);
    CHECK_EQ(frame.tensors_nbytes, 0);
  }
}

TEST(a_frame_of_empty_tensors_has_an_empty_span) {
  std::vector<OwnedLeaf> leaves{{kFloat32, {0}, {1}}};
  const auto bytes = written(leaves, "");
  const Frame frame(bytes);
  CHECK_EQ(frame.tensors_offset, frame.leaves[0].offset);
  CHECK_EQ(frame.tensors_nbytes, 0);
}

std::vector<OwnedLeaf> two_leaves() {
  return {{kInt16, {3, 4}, {4, 1}}, {kFloat32, {2}, {1}, LeafKind::kArray}};
}

// In memory of exactly this size, so that the address sanitizer sees a byte too many.
std::vector<std::byte> prefix(const std::vector<std::byte>& bytes, std::size_t nbytes) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(nbytes)};
}

TEST(every_truncation_is_refused) {
  auto leaves = two_leaves();
  const auto bytes = written(leaves, "structure");
  for (std::size_t nbytes = 0; nbytes < bytes.size(); ++nbytes) {
    CHECK_THROWS(CorruptSegment, Frame(prefix(bytes, nbytes)), "damaged");
  }
}

TEST(every_flipped_bit_of_header_and_table_is_refused) {
  auto leaves = two_leaves();
  auto bytes = written(leaves, "structure");
  const std::size_t covered = Frame(bytes).structure_offset;
  for (std::size_t bit = 0; bit < 8 * covered; ++bit) {
    bytes[bit / 8] ^= std::byte(1u << bit % 8);
    CHECK_THROWS(CorruptSegment, Frame(bytes), "damaged");
    bytes[bit / 8] ^= std::byte(1u << bit % 8);
  }
  static_cast<void>(Frame(bytes));  // whole again
}

// Bytes that a writer with another idea of the layout could have signed.
std::vector<std::byte> tampered(std::vector<OwnedLeaf> leaves, std::size_t word,
                                std::uint64_t value) {
  auto bytes = written(leaves, "structure");
  std::memcpy(bytes.data() + 8 * word, &value, 8);
  std::uint64_t table_nbytes;
  std::memcpy(&table_nbytes, bytes.data() + 16, 8);
  const std::size_t signed_nbytes = std::min<std::uint64_t>(56 + table_nbytes, bytes.size() - 8);
  const std::uint64_t sum = checksum_words(std::span(bytes).subspan(8, signed_nbytes));
  std::memcpy(bytes.data(), &sum, 8);
  return bytes;
}

void check_refused(std::size_t word, std::uint64_t value, const char* why) {
  const auto bytes = tampered(two_leaves(), word, value);
  CHECK_THROWS(CorruptSegment, Frame(bytes), why);
}

TEST(a_signed_contradiction_is_refused) {
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  check_refused(1, 3, "");  // more leaves than there are
  check_refused(1, kMost, "too many leaves");
  check_refused(2, kMost - 7, "contradicts its size");  // table
  check_refused(2, 41, "contradicts its size");
  check_refused(3, kMost, "contradicts its size");  // structure
  check_refused(4, kMost, "contradicts its size");  // frame
  check_refused(8, 128, "outside its frame");       // offset: not aligned
  check_refused(8, 4096, "outside its frame");
  check_refused(8, kMost - 255, "outside its frame");
  check_refused(9, 25, "does not fit its size");  // nbytes
  check_refused(10, 0x0000'02'00'0001'10'00 | 0xFF'00'0000'00'00, "dimensions");
  check_refused(10, 0x0000'02'02'0001'10'00, "neither tensor nor array");
  check_refused(10, 0x0000'02'00'0000'10'00, "does not fit its size");  // no lanes
  check_refused(11, 4, "does not fit its size");                        // shape
  check_refused(11, kMost, "does not fit its size");
  check_refused(11, std::uint64_t{1} << 62, "does not fit its size");
  check_refused(13, std::uint64_t{1} << 62, "does not fit its size");  // stride
  check_refused(13, kMost, "does not fit its size");
}

TEST(tensors_that_a_hostile_table_scatters_still_span_no_more_than_the_frame) {
  // Words 8 and 13 are the offsets: the header's eight, then five of a leaf with one dimension.
  const std::vector<OwnedLeaf> leaves{{kInt16, {4}, {1}}, {kInt16, {4}, {1}}};
  const Frame moved(tampered(leaves, 8, 0));
  CHECK_EQ(moved.tensors_offset, 0);
  CHECK_EQ(moved.tensors_nbytes, 512 + 8);
  const Frame swapped(tampered(leaves, 8, 512));
  CHECK_EQ(swapped.tensors_offset, 512);
  CHECK_EQ(swapped.tensors_nbytes, 8);
}

TEST(what_changes_after_the_check_changes_nothing) {
  auto leaves = two_leaves();
  auto bytes = written(leaves, "structure");
  const Frame frame(bytes);
  std::fill(bytes.begin(), bytes.end(), std::byte{0xFF});
  CHECK_EQ(frame.leaves[0].shape()[1], 4);
  CHECK_EQ(frame.leaves[1].nbytes, 8);
}

}  // namespace
}  // namespace fkat
