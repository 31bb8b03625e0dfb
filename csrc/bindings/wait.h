// Waiting for a peer from Python: in slices without the GIL, with a look at signals between them.

#pragma once

#include <pybind11/pybind11.h>

#include <cxxabi.h>
#include <unistd.h>

#include <chrono>

namespace fkat {

// How long a wait may sleep before it looks at signals again. A ring, the peer's death and a signal
// end the sleep itself; only a signal that comes between the last look and the sleep, or that the
// kernel gives to another thread, has to wait for the slice. Waking up costs 100 us and more after
// so long, twice what it may cost when there is something to take: so longer than data is usually
// waited for, and short enough for whoever pressed Ctrl-C.
inline constexpr std::chrono::milliseconds kSlice{500};

// Releases the GIL for its lifetime. Where Python (before 3.14) ends a daemon thread that asks for
// the GIL while the interpreter finalizes, by unwinding it, this one sleeps until the process is
// gone, as Python 3.14 does: unwinding through C++ would abort the process.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      while (true) pause();
    }
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Calls `attempt` (without the GIL) until it returns true. Between calls Python signal handlers
// run, and then `ask` is called unless it is None: what they raise, such as KeyboardInterrupt, ends
// the wait.
template <typename Attempt>
void wait_for(Attempt attempt, const pybind11::object& ask = pybind11::none()) {
  while (true) {
    {
      const WithoutGil no_gil;
      if (attempt()) return;
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    if (!ask.is_none()) ask();
  }
}

}  // namespace fkat
