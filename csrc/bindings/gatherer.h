// Gatherer: the leaves of a microbatch whose structure has come before.
//
// The producer's counterpart of the Unpacker: where nothing but the leaves has changed, the bytes
// of the structure are those of the last microbatch, and nothing is pickled. The leaves are what
// python's _transport/codec.py would make of them.

#pragma once

#include <pybind11/pybind11.h>

#include <utility>

#include "bindings/template.h"

namespace fkat {

class Gatherer {
 public:
  // What it makes leaves of, and with.
  struct Makers {
    pybind11::type tensor_type;
    // Plain dtype -> (tensor) -> whether its memory does not say all; None: it always does.
    pybind11::dict lazy_checks;
    pybind11::object to_dlpack;  // (tensor) -> DLPack capsule
    pybind11::type array_type;
    pybind11::object plain_array;  // (array) -> array that can be a leaf | None
  };

  Gatherer(Template shape, Makers makers) : shape_(std::move(shape)), makers_(std::move(makers)) {}

  // A list of DLPack capsules and arrays. None where the structure is another, and where a leaf is
  // not a plain one: then pickle has to say what it is, or what is wrong with it.
  pybind11::object gather(const pybind11::object& microbatch) const;

 private:
  pybind11::object leaf_of(PyObject* object) const;
  pybind11::object leaf_of_tensor(PyObject* tensor) const;

  Template shape_;
  Makers makers_;
  pybind11::str dtype_{"dtype"};
  pybind11::str requires_grad_{"requires_grad"};
  pybind11::str clone_{"clone"};
};

}  // namespace fkat
