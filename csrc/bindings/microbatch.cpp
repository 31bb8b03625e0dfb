#include "bindings/microbatch.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/checked.h"
#include "bindings/dlpack.h"

namespace py = pybind11;

namespace fkat {
namespace {

// One array leaf, through the buffer protocol: numpy's view of it holds this object.
struct LeafBuffer {
  std::shared_ptr<const void> owner;
  std::byte* data;
  DType dtype;
  std::vector<py::ssize_t> shape;
  std::vector<py::ssize_t> strides;  // in bytes
};

LeafBuffer leaf_buffer(const Leaf& leaf, std::byte* data, std::shared_ptr<const void> owner) {
  LeafBuffer buffer{std::move(owner),
                    data,
                    leaf.dtype,
                    {leaf.shape(), leaf.shape() + leaf.ndim},
                    {leaf.strides(), leaf.strides() + leaf.ndim}};
  for (py::ssize_t& stride : buffer.strides) {
    stride *= static_cast<py::ssize_t>(leaf.dtype.itemsize());
  }
  return buffer;
}

LeafBuffer private_buffer(const Leaf& leaf, const std::byte* frame) {
  const std::shared_ptr<std::byte[]> copy(new std::byte[leaf.nbytes]);
  if (leaf.nbytes != 0) std::memcpy(copy.get(), frame + leaf.offset, leaf.nbytes);
  return leaf_buffer(leaf, copy.get(), copy);
}

// A new list's item, once.
void set(py::list& list, std::size_t i, py::object value) {
  PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), value.release().ptr());
}

void require_bytes(const Microbatch& microbatch) {
  if (microbatch.bytes.empty()) throw ArgumentError("a microbatch that was copied has no bytes");
}

py::tuple as_tuple(std::span<const std::int64_t> numbers) {
  py::tuple tuple(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    PyTuple_SET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(numbers[i]));
  }
  return tuple;
}

// (dtype key, first element counted from the first tensor, shape, strides).
py::object placed_tensor(const Leaf& leaf, std::uint64_t tensors_offset) {
  const std::uint64_t itemsize = leaf.dtype.itemsize();
  const std::uint64_t offset = leaf.offset - tensors_offset;
  if (itemsize == 0 || offset % itemsize != 0) {
    throw CorruptSegment("a tensor leaf does not stand where an element can");
  }
  const auto ndim = static_cast<std::size_t>(leaf.ndim);
  return py::make_tuple(dtype_key(leaf.dtype), offset / itemsize, as_tuple({leaf.shape(), ndim}),
                        as_tuple({leaf.strides(), ndim}));
}

// Leaf by leaf a placed tensor, or what `asarray(buffer)` makes of a private copy.
py::list placed_leaves(const Microbatch& microbatch, const py::object& asarray) {
  require_bytes(microbatch);
  py::list result(microbatch.frame.leaves.size());
  std::size_t i = 0;
  for (const Leaf& leaf : microbatch.frame.leaves) {
    set(result, i++,
        leaf.kind == LeafKind::kTensor
            ? placed_tensor(leaf, microbatch.frame.tensors_offset)
            : call(asarray, py::cast(private_buffer(leaf, microbatch.bytes.data()))));
  }
  return result;
}

// The struct-module format of a native element; 'l' and 'L' are numpy's own int64 and uint64.
std::string buffer_format(DType dtype) {
  constexpr const char* kInts[] = {"b", "h", "i", "l"};
  constexpr const char* kUints[] = {"B", "H", "I", "L"};
  constexpr const char* kFloats[] = {nullptr, "e", "f", "d"};
  constexpr const char* kComplex[] = {nullptr, nullptr, nullptr, "Zf", "Zd"};
  const int log2_nbytes = dtype.bits == 8     ? 0
                          : dtype.bits == 16  ? 1
                          : dtype.bits == 32  ? 2
                          : dtype.bits == 64  ? 3
                          : dtype.bits == 128 ? 4
                                              : -1;
  const char* format = nullptr;
  if (log2_nbytes >= 0 && dtype.lanes == 1) {
    if (dtype.code == 0 && log2_nbytes < 4) format = kInts[log2_nbytes];
    if (dtype.code == 1 && log2_nbytes < 4) format = kUints[log2_nbytes];
    if (dtype.code == 2 && log2_nbytes < 4) format = kFloats[log2_nbytes];
    if (dtype.code == 5) format = kComplex[log2_nbytes];
    if (dtype.code == 6 && log2_nbytes == 0) format = "?";
  }
  if (format == nullptr) throw CorruptSegment("an array leaf has no numpy element type");
  return format;
}

py::buffer_info buffer_info(LeafBuffer& buffer) {
  return {buffer.data,
          static_cast<py::ssize_t>(buffer.dtype.itemsize()),
          buffer_format(buffer.dtype),
          static_cast<py::ssize_t>(buffer.shape.size()),
          buffer.shape,
          buffer.strides};
}

}  // namespace

Microbatch::Microbatch(Record record)
    : position(record.position),
      is_copy(record.is_copy),
      slot(record.slot),
      committed_nbytes(record.committed_nbytes),
      bytes(record.bytes),
      owner(std::move(record.owner)),
      frame(bytes) {}

std::span<const std::byte> structure_of(const Microbatch& microbatch) {
  require_bytes(microbatch);
  const Frame& frame = microbatch.frame;
  return microbatch.bytes.subspan(frame.structure_offset, frame.structure_nbytes);
}

py::list leaves_of(const std::shared_ptr<Microbatch>& microbatch, const py::object& from_dlpack,
                   const py::object& asarray) {
  require_bytes(*microbatch);
  std::byte* frame = microbatch->bytes.data();
  py::list result(microbatch->frame.leaves.size());
  std::size_t i = 0;
  for (const Leaf& leaf : microbatch->frame.leaves) {
    set(result, i++,
        leaf.kind == LeafKind::kTensor
            ? call(from_dlpack, export_tensor(leaf, frame, microbatch))
            : call(asarray, py::cast(leaf_buffer(leaf, frame + leaf.offset, microbatch))));
  }
  return result;
}

void bind_microbatch(py::module_& module) {
  py::class_<Microbatch, std::shared_ptr<Microbatch>>(
      module, "Microbatch", py::is_final(),
      "A published microbatch; its memory lives as long as a leaf does.")
      .def_readonly("position", &Microbatch::position)
      .def_readonly("is_copy", &Microbatch::is_copy)
      .def_property_readonly("nbytes",
                             [](const Microbatch& microbatch) { return microbatch.bytes.size(); })
      .def_property_readonly("structure",
                             [](const Microbatch& microbatch) {
                               const auto text = structure_of(microbatch);
                               return py::bytes(reinterpret_cast<const char*>(text.data()),
                                                text.size());
                             })
      .def_property_readonly(
          "tensors_nbytes",
          [](const Microbatch& microbatch) { return microbatch.frame.tensors_nbytes; },
          "What a copy of all its tensors needs, with the gaps between them.")
      .def("placed_leaves", &placed_leaves, py::arg("asarray"),
           "For a copy of its tensors: (dtype key, first element, shape, strides) of each, and "
           "arrays of their own.");

  py::class_<LeafBuffer>(module, "LeafBuffer", py::is_final(), py::buffer_protocol(),
                         "An array leaf, through the buffer protocol.")
      .def_buffer(&buffer_info);

  module.def(
      "dtype_key", [](const py::object& capsule) { return dtype_key(capsule); }, py::arg("capsule"),
      "The dtype key of a tensor, of which this is a DLPack capsule.");
}

}  // namespace fkat
