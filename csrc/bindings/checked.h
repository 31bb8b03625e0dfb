// What the C API of Python returns, or its error as an exception.

#pragma once

#include <pybind11/pybind11.h>

namespace fkat {

// Of a new reference.
inline pybind11::object checked(PyObject* object) {
  if (object == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(object);
}

inline pybind11::object call(const pybind11::object& function, pybind11::handle argument) {
  return checked(PyObject_CallOneArg(function.ptr(), argument.ptr()));
}

}  // namespace fkat
