// Processes as file descriptors: is the peer alive, and what to do when it dies.
//
// A pidfd names one process for as long as it is open, whatever happens to its number. It becomes
// readable once the process has exited, also while it is a zombie that nobody has reaped.

#pragma once

namespace fkat {

// Owner of a duplicate of a pidfd. A default-made one stands for nobody, who never exits.
class ProcessHandle {
 public:
  ProcessHandle() = default;
  explicit ProcessHandle(int pidfd);  // duplicates; throws SystemError
  ProcessHandle(ProcessHandle&& other) noexcept;
  ProcessHandle& operator=(ProcessHandle&& other) noexcept;
  ~ProcessHandle();

  int pidfd() const { return pidfd_; }  // -1: nobody's

 private:
  int pidfd_ = -1;
};

// From now on this process is killed when the one behind `pidfd` dies, and with it, if this process
// leads its process group, all of the group (the DataLoader workers that user code started).
//
// A C++ thread waits for it: a Python thread could be kept from running by user code that holds the
// GIL. Not PR_SET_PDEATHSIG: that fires when the creating *thread* ends, and never under
// forkserver. Call in the producer; what is called after the first time does nothing.
void die_with(int pidfd);

}  // namespace fkat
