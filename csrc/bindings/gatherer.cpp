#include "bindings/gatherer.h"

#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/checked.h"
#include "bindings/dlpack.h"

namespace py = pybind11;

namespace fkat {
namespace {

py::object attribute(PyObject* object, const py::str& name) {
  return checked(PyObject_GetAttr(object, name.ptr()));
}

}  // namespace

py::object Gatherer::gather(const py::object& microbatch) const {
  std::optional<py::list> leaves = shape_.match(microbatch);
  if (!leaves) return py::none();
  const auto size = static_cast<Py_ssize_t>(leaves->size());
  for (Py_ssize_t i = 0; i < size; ++i) {
    py::object leaf = leaf_of(PyList_GET_ITEM(leaves->ptr(), i));
    if (leaf.is_none()) return leaf;
    if (PyList_SetItem(leaves->ptr(), i, leaf.release().ptr()) != 0) throw py::error_already_set();
  }
  return std::move(*leaves);
}

py::object Gatherer::leaf_of(PyObject* object) const {
  const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type == makers_.tensor_type.ptr()) return leaf_of_tensor(object);
  if (type != makers_.array_type.ptr()) return py::none();
  return call(makers_.plain_array, object);
}

py::object Gatherer::leaf_of_tensor(PyObject* tensor) const {
  const py::object dtype = attribute(tensor, dtype_);
  PyObject* const is_lazy = PyDict_GetItemWithError(makers_.lazy_checks.ptr(), dtype.ptr());
  if (is_lazy == nullptr) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    return py::none();
  }
  if (attribute(tensor, requires_grad_).ptr() != Py_False) return py::none();
  if (is_lazy != Py_None && checked(PyObject_CallOneArg(is_lazy, tensor)).ptr() != Py_False) {
    return py::none();
  }
  try {
    const py::object capsule = call(makers_.to_dlpack, tensor);
    if (is_dense(capsule)) return capsule;
    return call(makers_.to_dlpack, checked(PyObject_CallMethodNoArgs(tensor, clone_.ptr())));
  } catch (const py::error_already_set& error) {
    // No memory to look at (sparse, nested, meta), or none for the copy.
    if (error.matches(PyExc_RuntimeError) || error.matches(PyExc_BufferError)) return py::none();
    throw;
  }
}

void bind_gatherer(py::module_& module) {
  module.def(
      "is_dense", &is_dense, py::arg("capsule"),
      "Whether a tensor fills its memory without holes or overlap, in any order of strides.");

  py::class_<Gatherer>(module, "Gatherer", py::is_final(),
                       "Takes microbatches apart that have a structure in common.")
      .def_static(
          "of",
          [](const py::object& tree, const py::list& placeholders, py::type tensor_type,
             py::dict lazy_checks, py::object to_dlpack, py::type array_type,
             py::object plain_array) -> std::optional<Gatherer> {
            auto shape = Template::of(tree, placeholders);
            if (!shape) return std::nullopt;
            return Gatherer(std::move(*shape),
                            {std::move(tensor_type), std::move(lazy_checks), std::move(to_dlpack),
                             std::move(array_type), std::move(plain_array)});
          },
          py::arg("tree"), py::arg("placeholders"), py::kw_only(), py::arg("tensor_type"),
          py::arg("lazy_checks"), py::arg("to_dlpack"), py::arg("array_type"),
          py::arg("plain_array"),
          "For those that look like `tree`, with leaves instead of the placeholders; None where "
          "pickle has to look at each.")
      .def(
          "gather", &Gatherer::gather, py::arg("microbatch"),
          "Its leaves, as DLPack capsules and arrays, in the order of the placeholders; None where "
          "more than plain leaves is different.");
}

}  // namespace fkat
