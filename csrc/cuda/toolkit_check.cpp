// Compares driver.h with a CUDA toolkit's cuda.h, when this is compiled. No code comes of it.
//
// Compiled where a toolkit is found, and the only file that may include its headers. driver.h calls
// the driver through declarations of its own: a wrong one would pass wrong arguments, silently.

#include <cuda.h>

#include <string_view>
#include <type_traits>

#include "cuda/driver.h"

namespace fkat::cuda {
namespace {

// cuda.h's enumeration of results is our int.
static_assert(sizeof(CUresult) == sizeof(Result) && std::is_enum_v<CUresult>);

template <class T>
using InOurTypes = std::conditional_t<std::is_same_v<T, CUresult>, Result, T>;

template <class Returned, class... Parameters>
auto in_our_types(Returned (*)(Parameters...))
    -> InOurTypes<Returned> (*)(InOurTypes<Parameters>...);

#define FKAT_STRING(text) #text
#define FKAT_EXPANDED(text) FKAT_STRING(text)

// cuda.h redirects a name to a newer version of the entry point by a macro. dlsym does not: the
// name in driver.h must be the one that the macro leads to.
#define FKAT_CUDA_COMPARE(member, symbol, parameters)                                      \
  static_assert(std::string_view(#symbol) == std::string_view(FKAT_EXPANDED(symbol)),      \
                #symbol " is not the version of the entry point that cuda.h uses");        \
  static_assert(std::is_same_v<decltype(Driver::member), decltype(in_our_types(&symbol))>, \
                #symbol " is declared otherwise in cuda.h");
FKAT_CUDA_ENTRY_POINTS(FKAT_CUDA_COMPARE)

static_assert(std::is_same_v<Device, CUdevice>);
static_assert(std::is_same_v<DevicePtr, CUdeviceptr>);
static_assert(std::is_same_v<Context, CUcontext>);
static_assert(std::is_same_v<Stream, CUstream>);
static_assert(std::is_same_v<Event, CUevent>);

static_assert(kSuccess == CUDA_SUCCESS);
static_assert(kNotReady == CUDA_ERROR_NOT_READY);
static_assert(kEventBlockingSync == CU_EVENT_BLOCKING_SYNC);
static_assert(kEventDisableTiming == CU_EVENT_DISABLE_TIMING);
static_assert(kHostRegisterPortable == CU_MEMHOSTREGISTER_PORTABLE);

}  // namespace
}  // namespace fkat::cuda
