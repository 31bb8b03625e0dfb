// The ring itself: made by the trainer, attached by the producer, and the memory it may use.

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"
#include "ring/ring.h"
#include "shm/memory_limit.h"

namespace py = pybind11;

namespace fkat {

void bind_ring(py::module_& module) {
  py::class_<Ring, std::shared_ptr<Ring>>(module, "Ring", py::is_final(),
                                          "Slots and index in one memfd.")
      .def_static("create", &Ring::create, py::arg("num_slots"), py::arg("slot_nbytes"),
                  py::arg("num_readers") = 1)
      .def_static(
          "attach", [](int fd) { return Ring::attach(Segment::attach(fd)); }, py::arg("fd"))
      .def_property_readonly("fd", [](const Ring& ring) { return ring.segment().fd(); })
      .def_property_readonly("num_slots",
                             [](const Ring& ring) { return ring.geometry().num_slots; })
      .def_property_readonly("slot_nbytes",
                             [](const Ring& ring) { return ring.geometry().slot_nbytes; })
      .def("stop", &Ring::stop, "Tell the producer that no reader will ask again.");

  module.def(
      "memory_limit",
      [] {
        const MemoryLimit limit = memory_limit();
        return py::make_tuple(limit.available_nbytes, limit.reason);
      },
      "Bytes this process may still use, and the limit that says so.");
}

}  // namespace fkat
