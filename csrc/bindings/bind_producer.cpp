// The producer's end of a ring, for _transport/producer.py.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

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

// Drafts that user code has not let go of, before no more are begun. The ring has as many slots
// more than it would need without drafts (MAX_DRAFTS), so that they never stop it.
constexpr std::size_t kMaxKept = 2;

// The producer's end as Python sees it: microbatches are made in drafts where that is possible.
class Writer {
 public:
  Writer(std::shared_ptr<Ring> ring, std::uint64_t memory_budget_nbytes)
      : producer_(std::move(ring), memory_budget_nbytes), owner_(getpid()) {}

  std::optional<Pass> await_pass(std::uint64_t previous) {
    Pass pass{};
    Turn turn = Turn::kWait;
    wait_for([&] {
      turn = producer_.await_pass(previous, pass, kSlice);
      return turn != Turn::kWait;
    });
    return turn == Turn::kGo ? std::optional(pass) : std::nullopt;
  }

  bool await_grant(const Pass& pass) {
    Turn turn = Turn::kWait;
    wait_for([&] {
      turn = producer_.await_grant(pass, kSlice);
      return turn != Turn::kWait;
    });
    if (turn == Turn::kGo) begin_draft();
    return turn == Turn::kGo;
  }

  // None where there is no room, and in a child that user code forked: it is not the child's.
  py::object allocate(std::uint64_t nbytes) {
    if (!draft_ || getpid() != owner_) return py::none();
    std::byte* const memory = draft_->allocate(nbytes);
    if (memory == nullptr) return py::none();
    return export_bytes(memory, nbytes, draft_->holder());
  }

  bool publish(const Pass& pass, std::uint64_t position, const py::bytes& structure,
               const py::list& leaves) {
    LeafImport imported(leaves, draft_ ? &*draft_ : nullptr);
    leaves.attr("clear")();  // else they would hold the draft
    const auto text = as_bytes(static_cast<std::string_view>(structure));
    const FrameWriter frame(imported.sources(), text);
    if (!imported.sources().empty()) head_nbytes_ = frame.head_nbytes();  // else nothing is placed
    if (draft_ && !draft_->is_held() && frame.head_fits() && frame.nbytes() <= draft_->nbytes() &&
        !imported.overlaps()) {
      return publish_draft(pass, position, frame);
    }
    const bool is_needed = imported.displace();
    keep_draft();
    if (!is_needed) abandon_kept();  // perhaps the one slot that is free
    const bool is_published = publish_copy(pass, position, {imported.sources(), text});
    abandon_kept();
    return is_published;
  }

  void publish_end(const Pass& pass, std::uint64_t count) {
    end_draft();
    producer_.publish_end(pass, count);
  }

  void publish_error(const Pass& pass, std::uint64_t position, const py::bytes& text) {
    end_draft();
    producer_.publish_error(pass, position, as_bytes(static_cast<std::string_view>(text)));
  }

  void share_budget(std::uint32_t num_producers) { producer_.share_budget(num_producers); }
  void announce_length(std::int64_t length) { producer_.announce_length(length); }
  void enter_factory() { producer_.enter(Activity::kBuilding); }

 private:
  void begin_draft() {
    end_draft();
    if (kept_.size() >= kMaxKept) return;
    std::optional<Draft> draft;
    {
      const WithoutGil no_gil;
      // Twice what the last one needed, so that it nearly always suffices.
      draft = producer_.try_draft(2 * head_nbytes_);
    }
    draft_ = std::move(draft);  // with the GIL: threads of user code may allocate, too
  }

  // The slot of the draft is free again, now or when nobody holds memory of it.
  void end_draft() {
    keep_draft();
    abandon_kept();
  }

  void keep_draft() {
    if (!draft_) return;
    producer_.keep(draft_->slot());
    kept_.push_back(std::move(*draft_));
    draft_.reset();
  }

  void abandon_kept() {
    std::erase_if(kept_, [this](const Draft& draft) {
      if (draft.is_held()) return false;
      producer_.abandon(draft.slot());
      return true;
    });
  }

  bool publish_draft(const Pass& pass, std::uint64_t position, const FrameWriter& frame) {
    if (!producer_.is_wanted(pass)) {
      end_draft();
      return false;
    }
    // Taken before the GIL is released: a thread of user code that allocated now would write into
    // what is published, and its memory would be under what is copied.
    const std::uint32_t slot = draft_->slot();
    draft_.reset();
    const WithoutGil no_gil;
    frame.write(producer_.slot_data(slot));
    producer_.publish_draft(pass, position, slot, frame.nbytes());
    return true;
  }

  bool publish_copy(const Pass& pass, std::uint64_t position, const FrameWriter& frame) {
    Turn turn = Turn::kWait;
    wait_for([&] {
      std::uint32_t slot = 0;
      turn = producer_.claim(pass, frame.nbytes(), slot, kSlice);
      if (turn == Turn::kGo) {
        frame.write(producer_.slot_data(slot));
        producer_.publish(pass, position, slot, frame.nbytes());
      }
      return turn != Turn::kWait;
    });
    return turn == Turn::kGo;
  }

  Producer producer_;
  pid_t owner_;
  std::optional<Draft> draft_;  // of the microbatch that is being made
  std::vector<Draft> kept_;
  std::uint64_t head_nbytes_ = kLeafAlignment;  // of the last frame with leaves
};

}  // namespace

void bind_producer(py::module_& module) {
  py::class_<Pass>(module, "Pass", py::is_final(),
                   "One walk over the data, as the trainer asked for it.")
      .def_readonly("id", &Pass::id)
      .def_readonly("epoch", &Pass::epoch)
      .def_readonly("start", &Pass::start);

  py::class_<Writer>(module, "Producer", py::is_final(), "The writing end of a ring. One per ring.")
      .def(py::init<std::shared_ptr<Ring>, std::uint64_t>(), py::arg("ring"),
           py::arg("memory_budget_nbytes"))
      .def("share_budget", &Writer::share_budget, py::arg("num_producers"),
           "The memory budget is that of so many producers together. Before anything is published.")
      .def("await_pass", &Writer::await_pass, py::arg("previous"),
           "Wait for a pass younger than `previous`; None when the trainer has stopped.")
      .def("await_grant", &Writer::await_grant, py::arg("pass_"),
           "Wait until one more microbatch is wanted; False when this pass no longer is.")
      .def("allocate", &Writer::allocate, py::arg("nbytes"),
           "Memory in the slot of the microbatch that is being made, as a DLPack capsule of bytes; "
           "None where there is no room.")
      .def(
          "publish", &Writer::publish, py::arg("pass_"), py::arg("position"), py::arg("structure"),
          py::arg("leaves"),
          "Publish a microbatch, in the slot where it was made or copied into one; False when this "
          "pass is no longer wanted. Empties the list of leaves.")
      .def("publish_end", &Writer::publish_end, py::arg("pass_"), py::arg("count"))
      .def("publish_error", &Writer::publish_error, py::arg("pass_"), py::arg("position"),
           py::arg("text"))
      .def("announce_length", &Writer::announce_length, py::arg("length"))
      .def("enter_factory", &Writer::enter_factory,
           "Say that the user's factory runs from now on, until the next wait.");

  module.def(
      "die_with", &die_with, py::arg("pidfd"),
      "Kill this process (and its group, if it leads one) when the one behind `pidfd` dies.");
  module.attr("MAX_DRAFTS") = kMaxKept + 1;
  module.attr("ERROR_NBYTES") = kErrorNbytes;
  module.attr("LENGTH_UNKNOWN") = Length::kUnknown;
}

}  // namespace fkat
