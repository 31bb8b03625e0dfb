#include "bindings/dlpack.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace py = pybind11;

namespace fkat {
namespace {

constexpr std::int32_t kCpu = 1;  // kDLCPU
constexpr const char* kCapsuleName = "dltensor";

struct DLTensor {
  void* data;
  struct {
    std::int32_t type;
    std::int32_t id;
  } device;
  std::int32_t ndim;
  DType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
static_assert(sizeof(DLManagedTensor) == 64 && sizeof(DType) == 4);

struct ExportedTensor {
  DLManagedTensor managed;
  std::int64_t size = 0;  // of one dimension, where nothing else keeps it
  std::shared_ptr<const void> owner;
};

void delete_exported(DLManagedTensor* managed) {
  delete static_cast<ExportedTensor*>(managed->context);
}

// A capsule that no consumer renamed still owns its tensor.
void destroy_capsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, kCapsuleName)) return;
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kCapsuleName));
  managed->deleter(managed);
}

const DLTensor& tensor_of(PyObject* capsule) {
  const auto* managed =
      static_cast<const DLManagedTensor*>(PyCapsule_GetPointer(capsule, kCapsuleName));
  if (managed == nullptr) throw py::error_already_set();
  return managed->tensor;
}

// DLDataTypeCode for a struct-module format of one native element; the codec sends no other arrays.
DType dtype_of(const char* format, Py_ssize_t itemsize) {
  const std::string text(format == nullptr ? "B" : format);
  const auto bits = static_cast<std::uint8_t>(8 * itemsize);
  const char last = text.empty() ? '\0' : text.back();
  if (text.size() == 2 && text[0] == 'Z') return {5, bits, 1};
  if (text.size() == 1) {
    if (last == '?') return {6, bits, 1};
    if (std::string("bhilqn").find(last) != std::string::npos) return {0, bits, 1};
    if (std::string("BHILQN").find(last) != std::string::npos) return {1, bits, 1};
    if (std::string("efd").find(last) != std::string::npos) return {2, bits, 1};
  }
  throw ArgumentError("an array with buffer format '" + text + "' cannot be a leaf");
}

}  // namespace

LeafImport::LeafImport(const py::list& leaves, const Draft* draft) : draft_(draft) {
  sources_.reserve(leaves.size());
  owned_.reserve(leaves.size());
  buffers_.reserve(leaves.size());
  for (const py::handle leaf : leaves) {
    if (PyCapsule_CheckExact(leaf.ptr())) {
      add_tensor(leaf.ptr());
    } else {
      add_array(leaf.ptr());
    }
    const LeafSource& source = sources_.back();
    if (!source.is_dense()) throw_unfit("is not dense");
    // A tensor whose storage was freed. Reading it would kill the process.
    if (source.data == nullptr && source.nbytes() != 0) throw_unfit("has no memory");
  }
}

void LeafImport::throw_unfit(const char* why) const {
  throw ArgumentError("leaf " + std::to_string(sources_.size() - 1) + " " + why);
}

LeafImport::~LeafImport() {
  for (Py_buffer& buffer : buffers_) PyBuffer_Release(&buffer);
  for (PyObject* object : owned_) Py_DECREF(object);
}

bool LeafImport::overlaps() const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  for (const LeafSource& source : sources_) {
    const std::uint64_t nbytes = source.nbytes();
    if (source.placed != 0 && nbytes != 0) spans.emplace_back(source.placed, nbytes);
  }
  std::ranges::sort(spans);
  const auto touch = [](const auto& a, const auto& b) { return a.first + a.second > b.first; };
  return std::ranges::adjacent_find(spans, touch) != spans.end();
}

bool LeafImport::displace() {
  bool was_placed = false;
  for (LeafSource& source : sources_) was_placed |= std::exchange(source.placed, 0) != 0;
  return was_placed;
}

std::int64_t* LeafImport::new_dims(std::size_t count) {
  return dims_.emplace_back(std::make_unique<std::int64_t[]>(count)).get();
}

void LeafImport::add_tensor(PyObject* capsule) {
  const DLTensor& tensor = tensor_of(capsule);
  if (tensor.device.type != kCpu) throw ArgumentError("a leaf is not in host memory");
  const auto ndim = static_cast<std::size_t>(tensor.ndim);
  const std::int64_t* strides = tensor.strides;
  if (strides == nullptr && ndim != 0) {  // means row-major
    std::int64_t* dims = new_dims(ndim);
    std::int64_t stride = 1;
    for (std::size_t i = ndim; i-- > 0; stride *= tensor.shape[i]) dims[i] = stride;
    strides = dims;
  }
  LeafSource source{LeafKind::kTensor,
                    tensor.dtype,
                    static_cast<const std::byte*>(tensor.data) + tensor.byte_offset,
                    {tensor.shape, ndim},
                    {strides, ndim}};
  if (draft_ != nullptr) source.placed = draft_->offset_of(source.data, source.nbytes());
  if (source.placed != 0) {
    std::int64_t* dims = new_dims(2 * ndim);
    std::copy_n(tensor.shape, ndim, dims);
    std::copy_n(strides, ndim, dims + ndim);
    source.shape = {dims, ndim};
    source.strides = {dims + ndim, ndim};
  } else {
    // The capsule keeps shape, strides and data; it is only looked into, never consumed.
    Py_INCREF(capsule);
    owned_.push_back(capsule);
  }
  sources_.push_back(source);
}

void LeafImport::add_array(PyObject* object) {
  Py_buffer& buffer = buffers_.emplace_back();
  if (PyObject_GetBuffer(object, &buffer, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    buffers_.pop_back();
    throw py::error_already_set();
  }
  const auto ndim = static_cast<std::size_t>(buffer.ndim);
  std::int64_t* dims = new_dims(2 * ndim);
  for (std::size_t i = 0; i < ndim; ++i) {
    dims[i] = buffer.shape[i];
    dims[ndim + i] = buffer.strides[i] / buffer.itemsize;
  }
  LeafSource source{LeafKind::kArray,
                    dtype_of(buffer.format, buffer.itemsize),
                    static_cast<const std::byte*>(buffer.buf),
                    {dims, ndim},
                    {dims + ndim, ndim}};
  if (draft_ != nullptr) source.placed = draft_->offset_of(source.data, source.nbytes());
  if (source.placed != 0) {
    PyBuffer_Release(&buffer);
    buffers_.pop_back();
  }
  sources_.push_back(source);
}

std::uint32_t dtype_key(DType dtype) {
  return std::uint32_t{dtype.code} << 24 | std::uint32_t{dtype.bits} << 16 | dtype.lanes;
}

std::uint32_t dtype_key(const py::object& capsule) {
  return dtype_key(tensor_of(capsule.ptr()).dtype);
}

bool is_dense(const py::object& capsule) {
  const DLTensor& tensor = tensor_of(capsule.ptr());
  if (tensor.strides == nullptr) return true;  // row-major
  const auto ndim = static_cast<std::size_t>(tensor.ndim);
  const std::span<const std::int64_t> shape(tensor.shape, ndim), strides(tensor.strides, ndim);
  return LeafSource{LeafKind::kTensor, tensor.dtype, nullptr, shape, strides}.is_dense();
}

namespace {

py::object export_managed(std::unique_ptr<ExportedTensor> exported,
                          std::shared_ptr<const void> owner) {
  exported->owner = std::move(owner);
  PyObject* capsule = PyCapsule_New(&exported->managed, kCapsuleName, destroy_capsule);
  if (capsule == nullptr) throw py::error_already_set();
  exported.release();
  return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

py::object export_bytes(std::byte* memory, std::uint64_t nbytes,
                        std::shared_ptr<const void> owner) {
  auto exported = std::make_unique<ExportedTensor>();
  exported->size = static_cast<std::int64_t>(nbytes);
  exported->managed = {{.data = memory,
                        .device = {kCpu, 0},
                        .ndim = 1,
                        .dtype = {1, 8, 1},
                        .shape = &exported->size,
                        .strides = nullptr,
                        .byte_offset = 0},
                       exported.get(),
                       delete_exported};
  return export_managed(std::move(exported), std::move(owner));
}

py::object export_tensor(const Leaf& leaf, std::byte* frame, std::shared_ptr<const void> owner) {
  auto exported = std::make_unique<ExportedTensor>();
  exported->managed = {{.data = frame + leaf.offset,
                        .device = {kCpu, 0},
                        .ndim = leaf.ndim,
                        .dtype = leaf.dtype,
                        .shape = leaf.shape(),
                        .strides = leaf.strides(),
                        .byte_offset = 0},
                       exported.get(),
                       delete_exported};
  return export_managed(std::move(exported), std::move(owner));
}

}  // namespace fkat
