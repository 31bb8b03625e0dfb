// The ring itself: made by the trainer, attached by the producer, and the memory it may use.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/wait.h"
#include "ring/ring.h"
#include "shm/memory_limit.h"

namespace py = pybind11;

namespace fkat {
namespace {

const char* name(Activity activity) {
  switch (activity) {
    case Activity::kStarting:
      return "starting";
    case Activity::kBuilding:
      return "building";
    case Activity::kReading:
      return "reading";
    case Activity::kWriting:
      return "writing";
    case Activity::kAwaitingSlot:
      return "awaiting slot";
    case Activity::kAwaitingGrant:
      return "awaiting grant";
    case Activity::kAwaitingPass:
      return "awaiting pass";
  }
  return "unknown";  // the word in shared memory is damaged
}

template <SlotState state>
std::uint32_t num_slots(const RingView& view) {
  return view.slots[static_cast<std::size_t>(state)];
}

}  // namespace

void bind_ring(py::module_& module) {
  py::class_<RingView>(module, "RingView", py::is_final(),
                       "A ring as seen from outside: what it holds, what its producer does.")
      .def_property_readonly("activity", [](const RingView& view) { return name(view.activity); })
      .def_property_readonly(
          "since_s",
          [](const RingView& view) { return std::chrono::duration<double>(view.since).count(); })
      .def_readonly("num_unread", &RingView::num_unread)
      .def_property_readonly("num_free", &num_slots<SlotState::kFree>)
      .def_property_readonly("num_writing", &num_slots<SlotState::kWriting>)
      .def_property_readonly("num_ready", &num_slots<SlotState::kReady>)
      .def_property_readonly("num_leased", &num_slots<SlotState::kLeased>)
      .def_readonly("leased_nbytes", &RingView::leased_nbytes);

  py::class_<Ring, std::shared_ptr<Ring>>(module, "Ring", py::is_final(),
                                          "Slots and index in one memfd.")
      .def_static("create", &Ring::create, py::arg("num_slots"), py::arg("slot_nbytes"),
                  py::arg("num_readers") = 1)
      .def_static(
          "attach",
          [](int fd, const std::vector<int>& wake_fds) {
            return Ring::attach(Segment::attach(fd), {wake_fds.begin(), wake_fds.end()});
          },
          py::arg("fd"), py::arg("wake_fds") = std::vector<int>(),
          "The ring behind `fd`; without its `wake_fds` to be looked at only.")
      .def_property_readonly("fd", [](const Ring& ring) { return ring.segment().fd(); })
      .def_property_readonly("wake_fds",
                             [](const Ring& ring) {
                               std::vector<int> fds;
                               for (const WakeFd& wake_fd : ring.wake_fds()) {
                                 fds.push_back(wake_fd.fd());
                               }
                               return fds;
                             })
      .def_property_readonly("num_slots",
                             [](const Ring& ring) { return ring.geometry().num_slots; })
      .def_property_readonly("slot_nbytes",
                             [](const Ring& ring) { return ring.geometry().slot_nbytes; })
      .def("look", &Ring::look, "What it holds, and what its producer does, at this moment.")
      .def("stop", &Ring::stop, "Tell the producer that no reader will ask again.")
      .def("retire", &Ring::retire, py::call_guard<WithoutGil>(),
           "Give the memory of the slots back, now that the producer is gone.");

  module.def(
      "memory_limit",
      [] {
        const MemoryLimit limit = memory_limit();
        return py::make_tuple(limit.available_nbytes, limit.reason, limit.cgroup_nbytes);
      },
      "Bytes this process may still use, the limit that says so, and the smallest of its memory "
      "cgroups (0 for none).");
}

}  // namespace fkat
