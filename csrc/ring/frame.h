// A frame: one microbatch as it lies in a slot.
//
//     +-------------+------------------+-----------+-----------------------------------+
//     | FrameHeader | leaf table       | structure | tensor | ... | array | ...         |
//     +-------------+------------------+-----------+-----------------------------------+
//                     dtype, shape,      opaque      kLeafAlignment each
//                     strides, offset
//
// A leaf is the dense memory of one tensor or array; the structure is whatever the codec needs to
// put the leaves back into their containers. Offsets count from the start of the frame. The table
// is in the order of the leaves; their memory is tensors first, so that one copy takes all tensors
// to a device.
//
// The writer trusts its arguments. The reader trusts nothing: a frame that another process tore or
// overwrote gives CorruptSegment, never an access outside the frame.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fkat {

inline constexpr std::uint64_t kLeafAlignment = 256;

// Of leaves from kLargeNbytes on: a page. Where a memcpy of more than some 100 MiB lies a little
// further into its page than its source does (large sources lie at the beginning, behind malloc's
// header), glibc 2.36 takes three times as long (256 MiB: 67 ms against 20). streaming_copy, which
// does it now where there is SSE2, was not tried without.
inline constexpr std::uint64_t kLargeAlignment = 4096;
inline constexpr std::uint64_t kLargeNbytes = 1 << 20;
inline constexpr int kMaxDims = 64;  // torch's and numpy's own limit

// An element type, in the codes of DLPack (DLDataTypeCode: 0 int, 1 uint, 2 float, 4 bfloat, ...).
struct DType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;

  std::uint64_t itemsize() const { return (std::uint64_t{bits} * lanes + 7) / 8; }
};

enum class LeafKind : std::uint8_t { kTensor = 0, kArray = 1 };

// What the writer is given. Strides count elements; the memory they span must be dense: as many
// bytes from the first element to the last as the elements need.
struct LeafSource {
  LeafKind kind;
  DType dtype;
  const std::byte* data;
  std::span<const std::int64_t> shape;
  std::span<const std::int64_t> strides;

  // Where `data` is, if it is in the slot already: an offset in the frame to be, a multiple of
  // kLeafAlignment. 0: somewhere else, to be copied.
  std::uint64_t placed = 0;

  std::uint64_t nbytes() const;

  // Whether the elements fill their memory without holes or overlap, in any order of strides.
  bool is_dense() const;
};

// What the reader returns, checked: every element lies within the frame.
struct Leaf {
  LeafKind kind;
  DType dtype;
  int ndim;
  std::uint64_t offset;
  std::uint64_t nbytes;
  std::int64_t* dims;  // ndim sizes, then ndim strides; inside Frame::table

  std::int64_t* shape() const { return dims; }
  std::int64_t* strides() const { return dims + ndim; }
};

// The size of a frame, then its bytes. Keeps references: the sources must outlive it.
//
// What is copied comes behind everything that is placed; header, table and structure come before,
// so whoever places leaves leaves room for them (`head_fits` says whether it was enough).
class FrameWriter {
 public:
  FrameWriter(std::span<const LeafSource> leaves, std::span<const std::byte> structure);

  std::uint64_t nbytes() const { return nbytes_; }
  std::uint64_t head_nbytes() const { return head_nbytes_; }
  bool head_fits() const { return head_nbytes_ <= placed_offset_; }
  void write(std::byte* slot) const;

 private:
  std::uint64_t end_of(LeafKind kind, std::uint64_t begin) const;

  std::span<const LeafSource> leaves_;
  std::span<const std::byte> structure_;
  std::uint64_t table_nbytes_;
  std::uint64_t head_nbytes_;
  std::uint64_t placed_offset_;  // the first that is placed
  std::uint64_t tensors_offset_;
  std::uint64_t arrays_offset_;
  std::uint64_t nbytes_;
};

// A checked frame. Header and table are private copies: bytes that change later change nothing.
struct Frame {
  // Throws CorruptSegment.
  explicit Frame(std::span<const std::byte> bytes);
  Frame(Frame&&) = default;  // not copied: leaves point into table_

  std::uint64_t structure_offset;
  std::uint64_t structure_nbytes;
  // From the first to the last byte of all tensor leaves; 0 and 0 without tensors. In a frame that
  // somebody else wrote there may be arrays in between, but never anything outside the frame.
  std::uint64_t tensors_offset;
  std::uint64_t tensors_nbytes;
  std::vector<Leaf> leaves;

 private:
  void find_tensors();

  std::vector<std::int64_t> table_;
};

}  // namespace fkat
