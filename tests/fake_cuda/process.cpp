// The library's life in a process: it stays once loaded, and logs its load and its exit.

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "fake_cuda.h"
#include "report.h"
#include "state.h"

namespace fake {
namespace {

void log_line(const char* what) {
  const char* const path = std::getenv("FAKE_CUDA_LOG");
  if (path == nullptr) return;
  if (std::FILE* const file = std::fopen(path, "a")) {
    std::fprintf(file, "pid=%d %s\n", static_cast<int>(getpid()), what);
    std::fclose(file);
  }
}

// What it has seen must outlive the driver object that opened it, and its threads never end.
__attribute__((constructor)) void loaded() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&fake_cuda_reset), &info) != 0) {
    dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
  }
  log_line("loaded");
}

__attribute__((destructor)) void ended() {
  if (!is_own_process()) return;
  char line[8192];
  fake_cuda_report(line, sizeof line);
  log_line(line);
}

}  // namespace

State& state() {
  static State* const everything = new State;
  return *everything;
}

}  // namespace fake
