// The errors of the core, one type for each thing that a caller can do about it.
//
// bindings/errors.cpp maps each to one Python exception; nothing else throws across the boundary.

#pragma once

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

namespace fkat {

// The caller passed something that cannot work; the text names the argument. Python: ValueError.
class ArgumentError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Bytes in shared memory are not what the layout promises. Python: CorruptSegmentError.
class CorruptSegment : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The kernel has no more memory for a slot. Python: MemoryError.
class OutOfMemory : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A device cannot be used, or refused or failed a call. Python: fkat.data.errors.DeviceError.
class DeviceError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A system call failed; carries errno. Python: OSError.
class SystemError : public std::system_error {
 public:
  SystemError(int error_number, const std::string& what)
      : std::system_error(error_number, std::generic_category(), what) {}
};

// Throws the SystemError of the system call that has just failed.
[[noreturn]] inline void throw_errno(const std::string& what) {
  throw SystemError(errno, what);
}

}  // namespace fkat
