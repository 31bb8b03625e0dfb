// The trainer's end of a ring, for _transport/reader.py and staged_reader.py.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "bindings/microbatch.h"
#include "bindings/slot_user.h"
#include "bindings/wait.h"
#include "ring/consumer.h"
#include "shm/process.h"

namespace py = pybind11;

namespace fkat {
namespace {

struct EndOfPass {
  std::uint64_t count;
};

struct ProducerError {
  std::uint64_t position;
  std::string text;
};

// More than 30 years are as good as for ever; 300 would not fit.
std::chrono::nanoseconds nanoseconds_of(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * std::clamp(seconds, 0.0, 1e9)));
}

// The Consumer with what a Python caller needs around it: the peer to watch, and a lock, because
// the GIL is released in the middle of every call.
class Reader {
 public:
  Reader(std::shared_ptr<Ring> ring, std::uint32_t num_prefetches, std::uint32_t max_leases,
         std::uint32_t reader)
      : consumer_(std::move(ring), reader, num_prefetches, max_leases) {}

  void watch(int pidfd) { producer_ = ProcessHandle(pidfd); }

  // Who holds slots beyond their acquisition; none if nobody does.
  void serve(std::shared_ptr<SlotUser> slot_user) {
    const std::scoped_lock lock(mutex_);
    slot_user_ = std::move(slot_user);
  }

  void share_window(std::uint32_t num_rings) {
    const std::scoped_lock lock(mutex_);
    consumer_.share_window(num_rings);
  }

  void begin_pass(std::uint64_t epoch, std::uint64_t start) {
    const std::scoped_lock lock(mutex_);
    consumer_.begin_pass(epoch, start);
  }

  py::object acquire(std::optional<double> timeout_s, const py::object& keep,
                     const py::object& ask) {
    Acquired acquired;
    wait_until(timeout_s, [&] { return try_take(acquired); }, ask);
    return kept(acquired.as_object(), keep);
  }

  py::object try_acquire(const py::object& keep) {
    Acquired acquired;
    {
      const WithoutGil no_gil;
      const std::scoped_lock lock(mutex_);
      try_take(acquired);
    }
    return kept(acquired.as_object(), keep);
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

  // Sleeps until one of them may have a record, the producer of one has exited (its number), or the
  // time is over.
  static std::optional<std::size_t> wait_any(const std::vector<Reader*>& readers,
                                             double timeout_s) {
    std::optional<std::size_t> exited;
    {
      const WithoutGil no_gil;
      std::vector<std::unique_lock<std::mutex>> locks;
      std::vector<Consumer::Peer> rings;
      for (Reader* reader : readers) {
        locks.emplace_back(reader->mutex_);
        rings.push_back({&reader->consumer_, &reader->producer_});
      }
      exited = Consumer::wait_any(rings, nanoseconds_of(timeout_s));
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    return exited;
  }

  ReaderStats stats() const { return consumer_.stats(); }  // from any thread, while another waits
  std::uint32_t outstanding_leases() const { return consumer_.outstanding_leases(); }

 private:
  // Python looks at signals when a call has returned, before it stores the result: what must not
  // be lost by an interrupt is handed to `keep` (a deque's append) before that.
  static py::object kept(py::object record, const py::object& keep) {
    if (!keep.is_none() && !record.is_none()) keep(record);
    return record;
  }

  struct Acquired {
    std::optional<Record> record;
    std::shared_ptr<Microbatch> microbatch;

    py::object as_object() {
      if (microbatch) return py::cast(std::move(microbatch));
      if (!record) return py::none();
      if (record->kind == RecordKind::kEnd) return py::cast(EndOfPass{record->position});
      return py::cast(ProducerError{record->position, std::move(record->error)});
    }
  };

  bool try_take(Acquired& acquired) {
    if (slot_user_) slot_user_->poll();
    acquired.record = consumer_.try_acquire();
    while (acquired.record && acquired.record->kind == RecordKind::kReclaim) {
      if (slot_user_) slot_user_->unpin(acquired.record->slot);
      acquired.record = consumer_.try_acquire();
    }
    if (!acquired.record) return false;
    if (acquired.record->kind == RecordKind::kMicrobatch) {
      acquired.microbatch = std::make_shared<Microbatch>(std::move(*acquired.record));
    }
    return true;
  }

  template <typename Ready>
  void wait_until(std::optional<double> timeout_s, Ready ready,
                  const py::object& ask = py::none()) {
    using Clock = std::chrono::steady_clock;
    std::optional<Clock::time_point> deadline;
    const auto attempt = [&] {
      const std::scoped_lock lock(mutex_);
      if (ready()) return true;
      Clock::duration slice = kSlice;
      if (timeout_s) {
        const auto now = Clock::now();
        if (!deadline) deadline = now + nanoseconds_of(*timeout_s);
        if (now >= *deadline) throw DeadlinePassed{*timeout_s};
        slice = std::min(slice, *deadline - now);
      }
      const bool producer_has_exited = consumer_.wait(slice, producer_);
      // In this order: what a dying producer published last is delivered before its death is told.
      if (ready()) return true;
      if (producer_has_exited) throw PeerExited{};
      return false;
    };
    wait_for(attempt, ask);
  }

  mutable std::mutex mutex_;
  Consumer consumer_;
  ProcessHandle producer_;
  std::shared_ptr<SlotUser> slot_user_;
};

}  // namespace

void bind_consumer(py::module_& module) {
  bind_microbatch(module);

  py::class_<SlotUser, std::shared_ptr<SlotUser>>(
      module, "SlotUser", "What reads slots after they were acquired, and pins them.");

  py::class_<EndOfPass>(module, "EndOfPass", py::is_final(), "No more microbatches in this pass.")
      .def_readonly("count", &EndOfPass::count);

  py::class_<ProducerError>(module, "ProducerError", py::is_final(),
                            "The pass failed in the producer.")
      .def_readonly("position", &ProducerError::position)
      .def_property_readonly("text",
                             [](const ProducerError& error) { return py::bytes(error.text); });

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
      .def("share_window", &Reader::share_window, py::arg("num_rings"),
           "The window is that of so many rings together, which are read in turn.")
      .def("begin_pass", &Reader::begin_pass, py::arg("epoch"), py::arg("start") = 0)
      .def("acquire", &Reader::acquire, py::arg("timeout_s") = py::none(),
           py::arg("keep") = py::none(), py::arg("ask") = py::none(),
           "Wait for the next record of the pass. `ask` is called behind signals, and "
           "twice a second: what it raises ends the wait.")
      .def("try_acquire", &Reader::try_acquire, py::arg("keep") = py::none(),
           "The next record of the pass if it is there, else None. Asks for nothing.")
      .def_static("wait_any", &Reader::wait_any, py::arg("consumers"), py::arg("timeout_s"),
                  "Sleep until one may have a record, or a producer has exited: whose, else None.")
      .def("serve", &Reader::serve, py::arg("slot_user"),
           "Let `slot_user` poll while this end waits, and unpin slots that the producer needs.")
      .def("await_length", &Reader::await_length, py::arg("timeout_s") = py::none(),
           "Wait until len() of the source is known, or something was published.")
      .def_property_readonly("stats", &Reader::stats)
      .def_property_readonly("outstanding_leases", &Reader::outstanding_leases);
}

}  // namespace fkat
