// Copies from the ring to a CUDA device, for _device/cuda.py.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/microbatch.h"
#include "bindings/slot_user.h"
#include "bindings/wait.h"
#include "cuda/pinned_prefix.h"
#include "cuda/stager.h"
#include "ring/ring.h"
#include "shm/numa.h"

namespace py = pybind11;

namespace fkat {
namespace {

using cuda::DeviceContext;
using cuda::PinnedPrefix;
using cuda::Transfer;

struct PinningStats {
  std::uint64_t nbytes = 0;           // pinned now
  std::uint64_t total_nbytes = 0;     // pinned ever
  std::chrono::nanoseconds spent{0};  // in doing so
};

// The stager, with the slots of a ring as its sources. A lock, since calls run without the GIL.
class RingStager : public SlotUser {
 public:
  RingStager(std::shared_ptr<Ring> ring, int ordinal, const std::string& driver_path)
      : ring_(std::move(ring)),
        context_(std::make_shared<DeviceContext>(cuda::Driver::load(driver_path), ordinal)),
        stager_(context_) {
    for (std::uint32_t slot = 0; slot < ring_->geometry().num_slots; ++slot) {
      slots_.emplace_back(ring_->slot_data(slot));
    }
  }

  ~RingStager() override { close(); }

  // Asks for the ring's memory on the node of the device, where there are several. False if the
  // system does not say which that is, or does not allow to ask.
  bool prefer_node_of_device(const std::string& sysfs) {
    if (num_numa_nodes(sysfs) < 2) return false;
    const auto node = numa_node_of_pci(sysfs, context_->pci_bus_id());
    try {
      return node && ring_->segment().prefer_node(*node);
    } catch (const SystemError&) {
      return false;  // a cpuset keeps that node from this process, or the node has no memory
    }
  }

  // From here on the microbatch has no bytes: they belong to the copy.
  std::shared_ptr<Transfer> copy(const std::shared_ptr<Microbatch>& microbatch,
                                 std::uint64_t destination, std::uintptr_t stream,
                                 std::string what) {
    const WithoutGil no_gil;
    const std::scoped_lock lock(mutex_);
    // Asked again: an interrupt came before the caller could keep the answer.
    if (microbatch->transfer) return std::static_pointer_cast<Transfer>(microbatch->transfer);
    if (microbatch->owner == nullptr) throw ArgumentError("a microbatch is copied only once");
    const Frame& frame = microbatch->frame;
    const cuda::Bytes tensors =
        microbatch->bytes.subspan(frame.tensors_offset, frame.tensors_nbytes);
    std::vector<cuda::Bytes> pieces;
    if (microbatch->is_copy) {
      pieces.push_back(tensors);
    } else {
      pin(microbatch->slot, microbatch->committed_nbytes);
      slots_[microbatch->slot].for_each_piece(tensors,
                                              [&](cuda::Bytes piece) { pieces.push_back(piece); });
    }
    microbatch->bytes = {};
    auto transfer = stager_.copy(pieces, destination, reinterpret_cast<cuda::Stream>(stream),
                                 std::move(microbatch->owner), std::move(what));
    microbatch->transfer = transfer;
    return transfer;
  }

  void make_wait(const Transfer& transfer, std::uintptr_t stream) {
    const WithoutGil no_gil;
    const std::scoped_lock lock(mutex_);
    transfer.make_wait(reinterpret_cast<cuda::Stream>(stream));
  }

  void poll() override {
    const std::scoped_lock lock(mutex_);
    stager_.poll();
  }

  // Waits for the oldest copy in flight, if any.
  void await_oldest() {
    const WithoutGil no_gil;
    const std::scoped_lock lock(mutex_);
    if (stager_.num_in_flight() != 0) stager_.await_oldest();
  }

  void unpin(std::uint32_t slot) override {
    const std::scoped_lock lock(mutex_);
    const DeviceContext::Current current(*context_);
    unpin_slot(slot);
  }

  // Waits for what is in flight, and leaves all slots to the producer. Never throws: who stops
  // copying has nothing left to do about a device that failed.
  void close() {
    if (!context_->is_own()) return;  // before the lock: in a forked child it may be held for ever
    const std::scoped_lock lock(mutex_);
    stager_.drain();
    try {
      const DeviceContext::Current current(*context_);
      for (std::uint32_t slot = 0; slot < slots_.size(); ++slot) unpin_slot(slot);
    } catch (const DeviceError&) {
    }
  }

  // Why slots are no longer pinned; empty as long as they are.
  std::string refusal() const {
    const std::scoped_lock lock(mutex_);
    return refusal_;
  }

  PinningStats pinning() const {
    const std::scoped_lock lock(mutex_);
    return pinning_;
  }

  std::size_t num_in_flight() const {
    const std::scoped_lock lock(mutex_);
    return stager_.num_in_flight();
  }

 private:
  void pin(std::uint32_t slot, std::uint64_t nbytes) {
    PinnedPrefix& prefix = slots_[slot];
    if (nbytes <= prefix.nbytes() || !refusal_.empty()) return;
    const std::uint64_t before = prefix.nbytes();
    const auto start = std::chrono::steady_clock::now();
    // First, while the slot is leased: from here on the producer gives none of its memory back.
    announce(slot, nbytes);
    const DeviceContext::Current current(*context_);
    const cuda::Result result = prefix.grow(context_->driver(), nbytes);
    pinning_.spent += std::chrono::steady_clock::now() - start;
    pinning_.nbytes += prefix.nbytes() - before;
    pinning_.total_nbytes += prefix.nbytes() > before ? prefix.nbytes() - before : 0;
    if (result == cuda::kSuccess) return;
    announce(slot, 0);
    refusal_ = context_->driver().describe(result);
  }

  void unpin_slot(std::uint32_t slot) {
    pinning_.nbytes -= slots_[slot].nbytes();
    slots_[slot].unpin(context_->driver());
    announce(slot, 0);
    ring_->give_back(slot);
  }

  void announce(std::uint32_t slot, std::uint64_t nbytes) {
    // SYNC POINT U for the producer and, behind its end, SYNC POINT G.
    ring_->slot_line(slot).pinned_nbytes.store(nbytes, std::memory_order_seq_cst);
  }

  mutable std::mutex mutex_;
  std::shared_ptr<Ring> ring_;  // outlives the registrations: unpinned, then unmapped
  std::shared_ptr<DeviceContext> context_;
  std::vector<PinnedPrefix> slots_;
  cuda::Stager stager_;
  PinningStats pinning_;
  std::string refusal_;
};

}  // namespace

void bind_stager(py::module_& module) {
  py::class_<Transfer, std::shared_ptr<Transfer>>(module, "Transfer", py::is_final(),
                                                  "A copy to a device, on its way or done.");

  py::class_<PinningStats>(module, "PinningStats", py::is_final(),
                           "How much of a ring is page-locked, and what that took.")
      .def_readonly("nbytes", &PinningStats::nbytes)
      .def_readonly("total_nbytes", &PinningStats::total_nbytes)
      .def_property_readonly("spent_s", [](const PinningStats& pinning) {
        return std::chrono::duration<double>(pinning.spent).count();
      });

  py::class_<RingStager, SlotUser, std::shared_ptr<RingStager>>(
      module, "RingStager", py::is_final(), "Copies from the slots of a ring to a CUDA device.")
      .def(py::init<std::shared_ptr<Ring>, int, const std::string&>(), py::arg("ring"),
           py::arg("ordinal"), py::arg("driver_path"))
      .def("prefer_node_of_device", &RingStager::prefer_node_of_device, py::arg("sysfs") = "/sys",
           "Ask for the ring's memory on the NUMA node of the device; False where that is moot.")
      .def("copy", &RingStager::copy, py::arg("microbatch"), py::arg("destination"),
           py::arg("stream"), py::arg("what"),
           "Copy the tensors of a microbatch to a device address, on a stream; page-locks its slot "
           "first. The microbatch has no bytes from then on.")
      .def("make_wait", &RingStager::make_wait, py::arg("transfer"), py::arg("stream"),
           "What the stream does from now on happens behind the transfer.")
      .def("await_oldest", &RingStager::await_oldest, "Wait for the oldest copy in flight.")
      .def(
          "poll",
          [](RingStager& stager) {
            const WithoutGil no_gil;
            stager.poll();
          },
          "Release the slots that were read; raises the DeviceError of a copy that failed.")
      .def(
          "close",
          [](RingStager& stager) {
            const WithoutGil no_gil;
            stager.close();
          },
          "Wait for what is in flight, and page-lock nothing any more.")
      .def_property_readonly("refusal",
                             [](const RingStager& stager) {
                               const WithoutGil no_gil;
                               return stager.refusal();
                             })
      .def_property_readonly("pinning",
                             [](const RingStager& stager) {
                               const WithoutGil no_gil;
                               return stager.pinning();
                             })
      .def_property_readonly("num_in_flight", [](const RingStager& stager) {
        const WithoutGil no_gil;
        return stager.num_in_flight();
      });
}

}  // namespace fkat
