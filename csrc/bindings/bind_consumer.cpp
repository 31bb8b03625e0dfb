// The trainer's end of a ring, for _producer_process.py and shm.py.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/dlpack.h"
#include "bindings/errors.h"
#include "bindings/wait.h"
#include "ring/consumer.h"
#include "ring/frame.h"
#include "shm/process.h"

namespace py = pybind11;

namespace fkat {
namespace {

// A checked frame with the lease (or private memory) that keeps its bytes. Every tensor shares it.
struct Microbatch {
  explicit Microbatch(Record record)
      : position(record.position),
        is_copy(record.is_copy),
        bytes(record.bytes),
        owner(std::move(record.owner)),
        frame(bytes) {}

  std::uint64_t position;
  bool is_copy;
  std::span<std::byte> bytes;
  std::shared_ptr<const void> owner;
  Frame frame;
};

struct EndOfPass {
  std::uint64_t count;
};

struct ProducerError {
  std::uint64_t position;
  std::string text;
};

// One array leaf, through the buffer protocol: numpy's view of it holds this object.
struct LeafBuffer {
  std::shared_ptr<const Microbatch> microbatch;
  const Leaf* leaf;
};

py::bytes structure(const Microbatch& microbatch) {
  const auto* text = reinterpret_cast<const char*>(microbatch.bytes.data());
  return {text + microbatch.frame.structure_offset, microbatch.frame.structure_nbytes};
}

// Leaf by leaf what `from_dlpack(capsule)` or `asarray(buffer)` makes of it.
py::list leaves(const std::shared_ptr<Microbatch>& microbatch, const py::object& from_dlpack,
                const py::object& asarray) {
  py::list result(microbatch->frame.leaves.size());
  std::size_t i = 0;
  for (const Leaf& leaf : microbatch->frame.leaves) {
    const bool is_tensor = leaf.kind == LeafKind::kTensor;
    const py::object source = is_tensor ? export_tensor(leaf, microbatch->bytes.data(), microbatch)
                                        : py::cast(LeafBuffer{microbatch, &leaf});
    PyObject* value =
        PyObject_CallOneArg(is_tensor ? from_dlpack.ptr() : asarray.ptr(), source.ptr());
    if (value == nullptr) throw py::error_already_set();
    PyList_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i++), value);
  }
  return result;
}

// The struct-module format of a native element; 'l' and 'L' are numpy's own int64 and uint64.
std::string buffer_format(DType dtype) {
  constexpr const char* kInts[] = {"b", "h", "i", "l"};
  constexpr const char* kUints[] = {"B", "H", "I", "L"};
  constexpr const char* kFloats[] = {nullptr, "e", "f", "d"};
  constexpr const char* kComplex[] = {nullptr, nullptr, nullptr, "Zf", "Zd"};
  const int log2_nbytes = dtype.bits == 8     ? 0
                          : dtype.bits == 16  ? 1
                          : dtype.bits == 32  ? 2
                          : dtype.bits == 64  ? 3
                          : dtype.bits == 128 ? 4
                                              : -1;
  const char* format = nullptr;
  if (log2_nbytes >= 0 && dtype.lanes == 1) {
    if (dtype.code == 0 && log2_nbytes < 4) format = kInts[log2_nbytes];
    if (dtype.code == 1 && log2_nbytes < 4) format = kUints[log2_nbytes];
    if (dtype.code == 2 && log2_nbytes < 4) format = kFloats[log2_nbytes];
    if (dtype.code == 5) format = kComplex[log2_nbytes];
    if (dtype.code == 6 && log2_nbytes == 0) format = "?";
  }
  if (format == nullptr) throw CorruptSegment("an array leaf has no numpy element type");
  return format;
}

py::buffer_info buffer_info(LeafBuffer& buffer) {
  const Leaf& leaf = *buffer.leaf;
  const auto itemsize = static_cast<py::ssize_t>(leaf.dtype.itemsize());
  std::vector<py::ssize_t> shape(leaf.shape(), leaf.shape() + leaf.ndim);
  std::vector<py::ssize_t> strides(leaf.strides(), leaf.strides() + leaf.ndim);
  for (py::ssize_t& stride : strides) stride *= itemsize;
  return {buffer.microbatch->bytes.data() + leaf.offset,
          itemsize,
          buffer_format(leaf.dtype),
          leaf.ndim,
          std::move(shape),
          std::move(strides)};
}

// The Consumer with what a Python caller needs around it: the peer to watch, and a lock, because
// the GIL is released in the middle of every call.
class Reader {
 public:
  Reader(std::shared_ptr<Ring> ring, std::uint32_t num_prefetches, std::uint32_t max_leases,
         std::uint32_t reader)
      : consumer_(std::move(ring), reader, num_prefetches, max_leases) {}

  void watch(int pidfd) { producer_ = ProcessHandle(pidfd); }

  void begin_pass(std::uint64_t epoch, std::uint64_t start) {
    const std::scoped_lock lock(mutex_);
    consumer_.begin_pass(epoch, start);
  }

  py::object acquire(std::optional<double> timeout_s) {
    std::optional<Record> record;
    std::shared_ptr<Microbatch> microbatch;
    wait_until(timeout_s, [&] {
      record = consumer_.try_acquire();
      if (!record) return false;
      if (record->kind == RecordKind::kMicrobatch) {
        microbatch = std::make_shared<Microbatch>(std::move(*record));
      }
      return true;
    });
    if (microbatch) return py::cast(std::move(microbatch));
    if (record->kind == RecordKind::kEnd) return py::cast(EndOfPass{record->position});
    return py::cast(ProducerError{record->position, std::move(record->error)});
  }

  // len() of the source; a code of Length when it has none, or failed before it could say.
  std::int64_t await_length(std::optional<double> timeout_s) {
    std::int64_t length = Length::kNotAskedYet;
    wait_until(timeout_s, [&] {
      length = consumer_.length();
      return length != Length::kNotAskedYet || consumer_.has_record();
    });
    return length;
  }

  ReaderStats stats() const {
    const std::scoped_lock lock(mutex_);
    return consumer_.stats();
  }
  std::uint32_t outstanding_leases() const { return consumer_.outstanding_leases(); }

 private:
  template <typename Ready>
  void wait_until(std::optional<double> timeout_s, Ready ready) {
    using Clock = std::chrono::steady_clock;
    std::optional<Clock::time_point> deadline;
    bool has_waited = false;
    wait_for([&] {
      const std::scoped_lock lock(mutex_);
      if (ready()) return true;
      // In this order: what a dying producer published last is delivered before its death is told.
      const bool peer_exited = has_waited && producer_.has_exited();
      if (peer_exited && ready()) return true;
      if (peer_exited) throw PeerExited{};
      has_waited = true;
      if (timeout_s) {
        const auto now = Clock::now();
        if (!deadline) {
          deadline = now + std::chrono::duration_cast<Clock::duration>(
                               std::chrono::duration<double>(*timeout_s));
        } else if (now >= *deadline) {
          throw DeadlinePassed{*timeout_s};
        }
      }
      consumer_.wait(kSlice);
      return false;
    });
  }

  mutable std::mutex mutex_;
  Consumer consumer_;
  ProcessHandle producer_;
};

}  // namespace

void bind_consumer(py::module_& module) {
  py::class_<Microbatch, std::shared_ptr<Microbatch>>(
      module, "Microbatch", py::is_final(),
      "A published microbatch; its memory lives as long as a leaf does.")
      .def_readonly("position", &Microbatch::position)
      .def_readonly("is_copy", &Microbatch::is_copy)
      .def_property_readonly("nbytes",
                             [](const Microbatch& microbatch) { return microbatch.bytes.size(); })
      .def_property_readonly("structure", &structure)
      .def("leaves", &leaves, py::arg("from_dlpack"), py::arg("asarray"));

  py::class_<EndOfPass>(module, "EndOfPass", py::is_final(), "No more microbatches in this pass.")
      .def_readonly("count", &EndOfPass::count);

  py::class_<ProducerError>(module, "ProducerError", py::is_final(),
                            "The pass failed in the producer.")
      .def_readonly("position", &ProducerError::position)
      .def_property_readonly("text",
                             [](const ProducerError& error) { return py::bytes(error.text); });

  py::class_<LeafBuffer>(module, "LeafBuffer", py::is_final(), py::buffer_protocol(),
                         "An array leaf, through the buffer protocol.")
      .def_buffer(&buffer_info);

  py::class_<ReaderStats>(module, "ReaderStats", py::is_final(),
                          "What a reader has seen since it was made.")
      .def_readonly("num_microbatches", &ReaderStats::num_microbatches)
      .def_readonly("nbytes", &ReaderStats::nbytes)
      .def_readonly("num_copies", &ReaderStats::num_copies)
      .def_property_readonly("stall_s", [](const ReaderStats& stats) {
        return std::chrono::duration<double>(stats.stall).count();
      });

  py::class_<Reader>(module, "Consumer", py::is_final(), "One reading end of a ring.")
      .def(py::init<std::shared_ptr<Ring>, std::uint32_t, std::uint32_t, std::uint32_t>(),
           py::arg("ring"), py::arg("num_prefetches"), py::arg("max_leases"), py::arg("reader") = 0)
      .def("watch", &Reader::watch, py::arg("pidfd"),
           "Raise ProducerExitedError when the process behind `pidfd` is gone and the ring is "
           "empty.")
      .def("begin_pass", &Reader::begin_pass, py::arg("epoch"), py::arg("start") = 0)
      .def("acquire", &Reader::acquire, py::arg("timeout_s") = py::none(),
           "Wait for the next record of the pass.")
      .def("await_length", &Reader::await_length, py::arg("timeout_s") = py::none(),
           "Wait until len() of the source is known, or something was published.")
      .def_property_readonly("stats", &Reader::stats)
      .def_property_readonly("outstanding_leases", &Reader::outstanding_leases);
}

}  // namespace fkat
