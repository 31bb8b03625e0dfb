#include "bindings/repeats.h"

#include <pybind11/pybind11.h>

#include <algorithm>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace fkat {

bool Repeats::is_due(std::string_view structure) {
  if (structure.size() > kMaxNbytes) return false;
  if (structure != last_) {
    last_ = structure;
    num_repeats_ = 0;
    return false;
  }
  if (++num_repeats_ != patience_) return false;
  patience_ = std::min(2 * patience_, kMaxPatience);
  return true;
}

void bind_repeats(py::module_& module) {
  py::class_<Repeats>(module, "Repeats", py::is_final(),
                      "Tells when a structure has come so often that it pays to learn it.")
      .def(py::init<>())
      .def(
          "is_due",
          [](Repeats& repeats, const py::bytes& text, std::size_t begin) {
            return repeats.is_due(static_cast<std::string_view>(text).substr(begin));
          },
          py::arg("text"), py::arg("begin"),
          "Whether to learn the structure that is `text` from `begin` on.");
}

}  // namespace fkat
