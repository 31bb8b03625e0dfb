// DLPack: how tensors cross between torch and the ring without linking torch.
//
// The structs are the unversioned ABI of dlpack.h (github.com/dmlc/dlpack, version 0.8), which
// every torch 2.x accepts under the capsule name "dltensor".

#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ring/draft.h"
#include "ring/frame.h"

namespace fkat {

// The leaves of one microbatch as the codec collected them: DLPack capsules (tensors) and objects
// with the buffer protocol (numpy arrays). Keeps the memory alive, not the list; needs the GIL at
// both ends of its life.
class LeafImport {
 public:
  // Of leaves that lie in `draft` (may be nullptr) nothing is kept alive. Throws ArgumentError for
  // what cannot be a leaf: the codec should have sent it another way.
  LeafImport(const pybind11::list& leaves, const Draft* draft);
  ~LeafImport();
  LeafImport(const LeafImport&) = delete;
  LeafImport& operator=(const LeafImport&) = delete;

  std::span<const LeafSource> sources() const { return sources_; }

  // Whether leaves in the draft overlap. Published in place they would be one memory in the
  // trainer; copied, each is its own, as in every other microbatch.
  bool overlaps() const;

  // From now on every leaf is to be copied, wherever it lies. Whether some lies in the draft.
  bool displace();

 private:
  void add_tensor(PyObject* capsule);
  void add_array(PyObject* object);
  std::int64_t* new_dims(std::size_t count);
  [[noreturn]] void throw_unfit(const char* why) const;  // the last one

  const Draft* draft_;
  std::vector<LeafSource> sources_;
  std::vector<PyObject*> owned_;
  std::vector<Py_buffer> buffers_;
  std::vector<std::unique_ptr<std::int64_t[]>> dims_;
};

// A capsule that gives `leaf` to from_dlpack. `owner` lives until the tensor's storage dies; its
// release needs neither the GIL nor Python.
pybind11::object export_tensor(const Leaf& leaf, std::byte* frame,
                               std::shared_ptr<const void> owner);

// A capsule that gives memory of a draft to from_dlpack, as `nbytes` of uint8.
pybind11::object export_bytes(std::byte* memory, std::uint64_t nbytes,
                              std::shared_ptr<const void> owner);

// Whether a tensor's capsule is dense: else it cannot be a leaf (LeafSource::is_dense).
bool is_dense(const pybind11::object& capsule);

// A number for each element type, the same for a leaf and for a tensor's capsule.
std::uint32_t dtype_key(DType dtype);
std::uint32_t dtype_key(const pybind11::object& capsule);

}  // namespace fkat
