// Which C++ error is which Python exception: the one place that says so.

#pragma once

#include <pybind11/pybind11.h>

namespace fkat {

// The watched peer has exited and left nothing behind to deliver. Python: ProducerExitedError.
struct PeerExited {};

// Nothing came before the caller's deadline. Python: DeadlinePassedError, a TimeoutError.
struct DeadlinePassed {
  double timeout_s;
};

void register_errors(pybind11::module_& module);

}  // namespace fkat
