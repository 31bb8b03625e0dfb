// The producer's end of a ring, for _producer.py.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string_view>

#include "bindings/bindings.h"
#include "bindings/dlpack.h"
#include "bindings/wait.h"
#include "ring/frame.h"
#include "ring/producer.h"
#include "shm/process.h"

namespace py = pybind11;

namespace fkat {
namespace {

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::optional<Pass> await_pass(Producer& producer, std::uint64_t previous) {
  Pass pass{};
  Turn turn = Turn::kWait;
  wait_for([&] {
    turn = producer.await_pass(previous, pass, kSlice);
    return turn != Turn::kWait;
  });
  return turn == Turn::kGo ? std::optional(pass) : std::nullopt;
}

bool await_grant(Producer& producer, const Pass& pass) {
  Turn turn = Turn::kWait;
  wait_for([&] {
    turn = producer.await_grant(pass, kSlice);
    return turn != Turn::kWait;
  });
  return turn == Turn::kGo;
}

bool publish(Producer& producer, const Pass& pass, std::uint64_t position,
             const py::bytes& structure, const py::list& leaves) {
  const LeafImport imported(leaves);
  const FrameWriter frame(imported.sources(), as_bytes(static_cast<std::string_view>(structure)));
  Turn turn = Turn::kWait;
  wait_for([&] {
    std::uint32_t slot = 0;
    turn = producer.claim(pass, frame.nbytes(), slot, kSlice);
    if (turn == Turn::kGo) {
      frame.write(producer.slot_data(slot));
      producer.publish(pass, position, slot, frame.nbytes());
    }
    return turn != Turn::kWait;
  });
  return turn == Turn::kGo;
}

}  // namespace

void bind_producer(py::module_& module) {
  py::class_<Pass>(module, "Pass", py::is_final(),
                   "One walk over the data, as the trainer asked for it.")
      .def_readonly("id", &Pass::id)
      .def_readonly("epoch", &Pass::epoch)
      .def_readonly("start", &Pass::start);

  py::class_<Producer>(module, "Producer", py::is_final(),
                       "The writing end of a ring. One per ring.")
      .def(py::init<std::shared_ptr<Ring>, std::uint64_t>(), py::arg("ring"),
           py::arg("memory_budget_nbytes"))
      .def("share_budget", &Producer::share_budget, py::arg("num_producers"),
           "The memory budget is that of so many producers together. Before anything is published.")
      .def("await_pass", &await_pass, py::arg("previous"),
           "Wait for a pass younger than `previous`; None when the trainer has stopped.")
      .def("await_grant", &await_grant, py::arg("pass_"),
           "Wait until one more microbatch is wanted; False when this pass no longer is.")
      .def("publish", &publish, py::arg("pass_"), py::arg("position"), py::arg("structure"),
           py::arg("leaves"),
           "Copy a microbatch into a slot and publish it; False when this pass is no longer "
           "wanted.")
      .def("publish_end", &Producer::publish_end, py::arg("pass_"), py::arg("count"))
      .def(
          "publish_error",
          [](Producer& producer, const Pass& pass, std::uint64_t position, const py::bytes& text) {
            producer.publish_error(pass, position, as_bytes(static_cast<std::string_view>(text)));
          },
          py::arg("pass_"), py::arg("position"), py::arg("text"))
      .def("announce_length", &Producer::announce_length, py::arg("length"))
      .def(
          "enter_factory", [](Producer& producer) { producer.enter(Activity::kBuilding); },
          "Say that the user's factory runs from now on, until the next wait.");

  module.def(
      "die_with", &die_with, py::arg("pidfd"),
      "Kill this process (and its group, if it leads one) when the one behind `pidfd` dies.");
  module.attr("ERROR_NBYTES") = kErrorNbytes;
  module.attr("LENGTH_UNKNOWN") = Length::kUnknown;
}

}  // namespace fkat
