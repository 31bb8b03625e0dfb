// Waiting for a peer from Python: in slices without the GIL, with a look at signals between them.

#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

namespace fkat {

// How long a wait may sleep before it looks at the peer, at signals and at the deadline. A dead
// producer is noticed within one slice; 200 wake-ups a second of an idle trainer cost some 0.1 % of
// a core.
inline constexpr std::chrono::milliseconds kSlice{5};

// Calls `attempt` (without the GIL) until it returns true. Between calls Python signal handlers
// run: what they raise, such as KeyboardInterrupt, ends the wait.
template <typename Attempt>
void wait_for(Attempt attempt) {
  while (true) {
    {
      pybind11::gil_scoped_release no_gil;
      if (attempt()) return;
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  }
}

}  // namespace fkat
