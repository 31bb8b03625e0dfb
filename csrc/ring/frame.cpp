#include "ring/frame.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/streaming_copy.h"

namespace fkat {
namespace {

struct FrameHeader {
  std::uint64_t checksum;  // of the rest of the header and of the leaf table
  std::uint64_t num_leaves;
  std::uint64_t table_nbytes;
  std::uint64_t structure_nbytes;
  std::uint64_t nbytes;
  std::uint64_t unused[3];
};
static_assert(sizeof(FrameHeader) == 64 && std::is_trivially_copyable_v<FrameHeader>);

// Followed by ndim sizes and ndim strides, 8 bytes each.
struct LeafRecord {
  std::uint64_t offset;
  std::uint64_t nbytes;
  DType dtype;
  LeafKind kind;
  std::uint8_t ndim;
  std::uint16_t unused;
};
static_assert(sizeof(LeafRecord) == 24 && std::is_trivially_copyable_v<LeafRecord>);

constexpr std::size_t kRecordWords = sizeof(LeafRecord) / 8;
constexpr std::size_t kHeaderWords = sizeof(FrameHeader) / 8;

// Bytes from the first element to the end of the last; nothing when a dimension or stride is
// negative or the arithmetic overflows.
std::optional<std::uint64_t> span_nbytes(DType dtype, std::span<const std::int64_t> shape,
                                         std::span<const std::int64_t> strides) {
  std::uint64_t last = 0;
  bool empty = false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) return std::nullopt;
    if (shape[i] == 0) empty = true;
    if (shape[i] <= 1) continue;  // a stride that is never taken
    if (strides[i] < 0) return std::nullopt;
    const auto reach = checked_mul(static_cast<std::uint64_t>(shape[i] - 1),
                                   static_cast<std::uint64_t>(strides[i]));
    const auto sum = reach ? checked_add(last, *reach) : std::nullopt;
    if (!sum) return std::nullopt;
    last = *sum;
  }
  if (empty) return 0;
  const auto count = checked_add(last, 1);
  return count ? checked_mul(*count, dtype.itemsize()) : std::nullopt;
}

// Where the next of the leaves that lie one behind another begins; moves `end` behind it.
std::uint64_t place(std::uint64_t nbytes, std::uint64_t& end) {
  const std::uint64_t offset =
      round_up(end, nbytes < kLargeNbytes ? kLeafAlignment : kLargeAlignment);
  end = offset + round_up(nbytes, kLeafAlignment);
  return offset;
}

[[noreturn]] void corrupt(const std::string& what) {
  throw CorruptSegment("a microbatch in shared memory is damaged: " + what);
}

Leaf checked_leaf(std::int64_t* words, std::size_t words_left, std::uint64_t frame_nbytes) {
  if (words_left < kRecordWords) corrupt("its leaf table is cut short");
  LeafRecord record;
  std::memcpy(&record, words, sizeof record);
  const int ndim = record.ndim;
  if (ndim > kMaxDims || words_left < kRecordWords + 2 * static_cast<std::size_t>(ndim)) {
    corrupt("a leaf has " + std::to_string(ndim) + " dimensions");
  }
  if (record.kind != LeafKind::kTensor && record.kind != LeafKind::kArray) {
    corrupt("a leaf is neither tensor nor array");
  }
  Leaf leaf{record.kind, record.dtype, ndim, record.offset, record.nbytes, words + kRecordWords};
  const auto count = static_cast<std::size_t>(ndim);
  if (leaf.dtype.itemsize() == 0 ||
      span_nbytes(leaf.dtype, {leaf.shape(), count}, {leaf.strides(), count}) != leaf.nbytes) {
    corrupt("the shape of a leaf does not fit its size");
  }
  const auto end = checked_add(leaf.offset, leaf.nbytes);
  if (leaf.offset % kLeafAlignment != 0 || !end || *end > frame_nbytes) {
    corrupt("a leaf lies outside its frame");
  }
  return leaf;
}

}  // namespace

std::uint64_t LeafSource::nbytes() const {
  return span_nbytes(dtype, shape, strides).value_or(0);
}

bool LeafSource::is_dense() const {
  const auto span = span_nbytes(dtype, shape, strides);
  if (!span || *span == 0) return span.has_value();
  std::vector<std::pair<std::int64_t, std::int64_t>> dims;  // stride, size
  dims.reserve(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 1) dims.emplace_back(strides[i], shape[i]);
  }
  std::ranges::sort(dims);
  std::int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

FrameWriter::FrameWriter(std::span<const LeafSource> leaves, std::span<const std::byte> structure)
    : leaves_(leaves),
      structure_(structure),
      table_nbytes_(0),
      placed_offset_(std::numeric_limits<std::uint64_t>::max()) {
  std::uint64_t placed_end = 0;
  for (const LeafSource& leaf : leaves) {
    table_nbytes_ += sizeof(LeafRecord) + 16 * leaf.shape.size();
    if (leaf.placed == 0) continue;
    placed_offset_ = std::min(placed_offset_, leaf.placed);
    placed_end = std::max(placed_end, leaf.placed + round_up(leaf.nbytes(), kLeafAlignment));
  }
  head_nbytes_ = round_up(sizeof(FrameHeader) + table_nbytes_ + structure.size(), kLeafAlignment);
  tensors_offset_ = std::max(head_nbytes_, placed_end);
  arrays_offset_ = end_of(LeafKind::kTensor, tensors_offset_);
  nbytes_ = end_of(LeafKind::kArray, arrays_offset_);
}

// Where what is copied of a kind ends.
std::uint64_t FrameWriter::end_of(LeafKind kind, std::uint64_t begin) const {
  for (const LeafSource& leaf : leaves_) {
    if (leaf.kind == kind && leaf.placed == 0) place(leaf.nbytes(), begin);
  }
  return begin;
}

void FrameWriter::write(std::byte* slot) const {
  FrameHeader header{};
  header.num_leaves = leaves_.size();
  header.table_nbytes = table_nbytes_;
  header.structure_nbytes = structure_.size();
  header.nbytes = nbytes_;

  std::byte* record_at = slot + sizeof header;
  std::uint64_t tensors_end = tensors_offset_;
  std::uint64_t arrays_end = arrays_offset_;
  for (const LeafSource& leaf : leaves_) {
    std::uint64_t& end = leaf.kind == LeafKind::kTensor ? tensors_end : arrays_end;
    const std::uint64_t nbytes = leaf.nbytes();
    const std::uint64_t offset = leaf.placed != 0 ? leaf.placed : place(nbytes, end);
    const auto ndim = static_cast<std::uint8_t>(leaf.shape.size());
    const LeafRecord record{offset, nbytes, leaf.dtype, leaf.kind, ndim, 0};
    std::memcpy(record_at, &record, sizeof record);
    record_at += sizeof record;
    if (ndim != 0) {
      std::memcpy(record_at, leaf.shape.data(), 8 * leaf.shape.size());
      record_at += 8 * leaf.shape.size();
      std::memcpy(record_at, leaf.strides.data(), 8 * leaf.strides.size());
      record_at += 8 * leaf.strides.size();
    }
    if (leaf.placed != 0 || nbytes == 0) continue;
    if (nbytes_ < kStreamedNbytes || nbytes < kStreamedLeafNbytes) {
      std::memcpy(slot + offset, leaf.data, nbytes);
    } else {
      streaming_copy(slot + offset, leaf.data, nbytes);
    }
  }
  if (!structure_.empty()) std::memcpy(record_at, structure_.data(), structure_.size());

  std::memcpy(slot, &header, sizeof header);
  header.checksum = checksum_words({slot + 8, sizeof header - 8 + table_nbytes_});
  std::memcpy(slot, &header, 8);
}

Frame::Frame(std::span<const std::byte> bytes) {
  FrameHeader header;
  if (bytes.size() < sizeof header) corrupt("it is shorter than its header");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.nbytes != bytes.size() || header.table_nbytes % 8 != 0 ||
      header.table_nbytes > bytes.size() - sizeof header ||
      header.structure_nbytes > bytes.size() - sizeof header - header.table_nbytes) {
    corrupt("its header contradicts its size");
  }
  // Header and table once more, together, as they will be used: what was checked is what is read.
  table_.resize(kHeaderWords + header.table_nbytes / 8);
  std::memcpy(table_.data(), bytes.data(), sizeof header + header.table_nbytes);
  std::memcpy(table_.data(), &header, sizeof header);
  const auto checked = std::as_bytes(std::span(table_)).subspan(8);
  if (checksum_words(checked) != header.checksum) corrupt("its header has a wrong checksum");

  structure_offset = sizeof header + header.table_nbytes;
  structure_nbytes = header.structure_nbytes;
  std::size_t at = kHeaderWords;
  if (header.num_leaves > header.table_nbytes / sizeof(LeafRecord)) corrupt("too many leaves");
  leaves.reserve(header.num_leaves);
  for (std::uint64_t i = 0; i < header.num_leaves; ++i) {
    leaves.push_back(checked_leaf(table_.data() + at, table_.size() - at, bytes.size()));
    at += kRecordWords + 2 * static_cast<std::size_t>(leaves.back().ndim);
  }
  find_tensors();
}

// The leaves are checked: no sum overflows, no end lies outside the frame.
void Frame::find_tensors() {
  std::uint64_t begin = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t end = 0;
  for (const Leaf& leaf : leaves) {
    if (leaf.kind != LeafKind::kTensor) continue;
    begin = std::min(begin, leaf.offset);
    end = std::max(end, leaf.offset + leaf.nbytes);
  }
  tensors_offset = std::min(begin, end);  // without tensors `end` is 0
  tensors_nbytes = end - tensors_offset;
}

}  // namespace fkat
