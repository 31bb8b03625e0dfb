// What a sampler has drawn, as bytes to be digested: for _source/digest.py, which says of what a
// digest is. A resumed run does this for all that came before, so before its first microbatch.

#include <pybind11/pybind11.h>

#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace fkat {
namespace {

// None of what is no int, or does not fit.
std::optional<std::int64_t> integer(PyObject* object) {
  if (!PyLong_CheckExact(object)) return std::nullopt;
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0 ? std::optional<std::int64_t>(value) : std::nullopt;
}

// The decimals of an index, 1 XORed into the first.
bool append_index(PyObject* index, std::string& bytes) {
  const auto value = integer(index);
  if (!value) return false;
  char decimals[20];
  char* const end = std::to_chars(decimals, decimals + sizeof decimals, *value).ptr;
  decimals[0] ^= 1;
  bytes.append(decimals, end);
  return true;
}

// The integers of a list, 8 bytes each, how many there are XORed into the first.
bool append_list(PyObject* list, std::string& bytes) {
  const Py_ssize_t size = PyList_GET_SIZE(list);
  for (Py_ssize_t i = 0; i < size; ++i) {
    auto value = integer(PyList_GET_ITEM(list, i));
    if (!value) return false;
    if (i == 0) *value ^= size;
    char eight[sizeof *value];
    std::memcpy(eight, &*value, sizeof eight);
    bytes.append(eight, sizeof eight);
  }
  return true;
}

py::object index_bytes(const py::list& drawn) {
  std::string bytes;
  const auto size = static_cast<Py_ssize_t>(drawn.size());
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* const one = PyList_GET_ITEM(drawn.ptr(), i);
    if (!(PyList_CheckExact(one) ? append_list(one, bytes) : append_index(one, bytes))) {
      return py::none();
    }
  }
  return py::bytes(bytes);
}

}  // namespace

void bind_indices(py::module_& module) {
  module.def("index_bytes", &index_bytes, py::arg("drawn"),
             "The bytes that are digested for microbatches in a row; None for other indices than "
             "ints and lists of ints.");
}

}  // namespace fkat
