#include "cuda/driver.h"

#include <dlfcn.h>

#include "base/error.h"

namespace fkat::cuda {
namespace {

void find(void* library, const std::string& path, const char* symbol, auto*& entry_point) {
  void* address = dlsym(library, symbol);
  if (address == nullptr) {
    throw DeviceError(path + " has no " + symbol + ": the CUDA driver is too old (needed: 11.0)");
  }
  entry_point = reinterpret_cast<std::remove_reference_t<decltype(entry_point)>>(address);
}

}  // namespace

std::shared_ptr<const Driver> Driver::load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw DeviceError(std::string("no CUDA driver can be loaded: ") + dlerror());
  }
  const std::shared_ptr<Driver> driver(new Driver(library));
#define FKAT_CUDA_FIND(member, symbol, parameters) find(library, path, #symbol, driver->member);
  FKAT_CUDA_ENTRY_POINTS(FKAT_CUDA_FIND)
#undef FKAT_CUDA_FIND
  return driver;
}

Driver::~Driver() {
  dlclose(library_);
}

std::string Driver::describe(Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  get_error_name(result, &name);
  get_error_string(result, &text);
  if (name == nullptr) return "CUDA error " + std::to_string(result);
  return std::string(name) + (text == nullptr ? "" : " (" + std::string(text) + ")");
}

void Driver::check(Result result, const std::string& what) const {
  if (result != kSuccess) throw DeviceError(what + ": " + describe(result));
}

}  // namespace fkat::cuda
