// Child: a forked process that runs one function. Killed and reaped with its owner.
//
// Fork only while this process has one thread.

#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>
#include <utility>

#include "check.h"

namespace fkat {

inline int open_pidfd(pid_t pid) {
  return static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
}

class Child {
 public:
  template <typename Body>
  explicit Child(const Body& body) : pid_(fork()) {
    if (pid_ != 0) {
      pidfd_ = open_pidfd(pid_);
      return;
    }
    try {
      body();
    } catch (const check::Failure&) {
      _exit(1);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child threw \"%s\"\n", error.what());
      _exit(1);
    }
    _exit(0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    kill();
    wait();
    if (pidfd_ >= 0) close(pidfd_);
  }

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_; }

  void kill() const {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
  }

  // Reaps it; its exit code, or minus the signal that ended it.
  int wait() {
    if (pid_ <= 0) return 0;
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }

 private:
  pid_t pid_;
  int pidfd_ = -1;
};

// A zero-filled T that this process and its later children share.
template <typename T>
class Shared {
 public:
  Shared()
      : value_(static_cast<T*>(
            mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { munmap(value_, sizeof(T)); }

  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }

 private:
  T* value_;
};

}  // namespace fkat
