// What this build is, as CMakeLists.txt says: for fkat.data.build_info().

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace fkat {
namespace {

#ifdef FKAT_HAS_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

}  // namespace

void bind_build(py::module_& module) {
  const std::string toolkit = FKAT_CUDA_TOOLKIT;
  module.attr("VERSION") = FKAT_VERSION;
  module.attr("HAS_CUDA") = kHasCuda;
  module.attr("CUDA_TOOLKIT") = toolkit.empty() ? py::object(py::none()) : py::str(toolkit);
  module.attr("COMPILER") = FKAT_COMPILER;
  module.attr("BUILD_TYPE") = FKAT_BUILD_TYPE;
}

}  // namespace fkat
