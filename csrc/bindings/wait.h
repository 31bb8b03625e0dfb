// Waiting for a peer from Python: in slices without the GIL, with a look at signals between them.

#pragma once

#include <pybind11/pybind11.h>

#include <cxxabi.h>
#include <unistd.h>

#include <chrono>

namespace fkat {

// How long a wait may sleep before it looks at the peer, at signals and at the deadline. A dead
// producer is noticed within one slice. A signal ends the sleep itself.
inline constexpr std::chrono::milliseconds kSlice{5};

// What the slices of a long wait grow to: each costs the trainer some 40 us, which is most of what
// slow data costs it.
inline constexpr std::chrono::milliseconds kLongSlice{20};

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
// run: what they raise, such as KeyboardInterrupt, ends the wait.
template <typename Attempt>
void wait_for(Attempt attempt) {
  while (true) {
    {
      const WithoutGil no_gil;
      if (attempt()) return;
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  }
}

}  // namespace fkat
