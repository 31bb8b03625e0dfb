// The CUDA driver's entry points, found at run time: nothing here is linked.
//
// So one build imports on a machine without a driver, and a test can put a library of its own in
// the driver's place. Not the runtime library: its failures stay behind as a "last error" that an
// unrelated call of torch would then report.
//
// The declarations are ours, because building must not need a toolkit; where there is one,
// toolkit_check.cpp compares them with its cuda.h. Names, types and numbers are those of
// docs.nvidia.com/cuda/cuda-driver-api.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

struct CUctx_st;
struct CUstream_st;
struct CUevent_st;

namespace fkat::cuda {

using Result = int;  // CUresult
using Device = int;  // CUdevice
using DevicePtr = unsigned long long;
using Context = ::CUctx_st*;
using Stream = ::CUstream_st*;
using Event = ::CUevent_st*;

inline constexpr Result kSuccess = 0;
inline constexpr Result kNotReady = 600;  // CUDA_ERROR_NOT_READY: an event is still to come

inline constexpr unsigned int kEventBlockingSync = 1;     // CU_EVENT_BLOCKING_SYNC
inline constexpr unsigned int kEventDisableTiming = 2;    // CU_EVENT_DISABLE_TIMING
inline constexpr unsigned int kHostRegisterPortable = 1;  // CU_MEMHOSTREGISTER_PORTABLE

// Every entry point that is used: member, symbol, parameters. The symbol carries the version that
// cuda.h's macros would add.
#define FKAT_CUDA_ENTRY_POINTS(X)                                                              \
  X(get_error_name, cuGetErrorName, (Result, const char**))                                    \
  X(get_error_string, cuGetErrorString, (Result, const char**))                                \
  X(driver_get_version, cuDriverGetVersion, (int*))                                            \
  X(device_get, cuDeviceGet, (Device*, int))                                                   \
  X(device_get_pci_bus_id, cuDeviceGetPCIBusId, (char*, int, Device))                          \
  X(primary_context_retain, cuDevicePrimaryCtxRetain, (Context*, Device))                      \
  X(primary_context_release, cuDevicePrimaryCtxRelease_v2, (Device))                           \
  X(context_push, cuCtxPushCurrent_v2, (Context))                                              \
  X(context_pop, cuCtxPopCurrent_v2, (Context*))                                               \
  X(host_register, cuMemHostRegister_v2, (void*, std::size_t, unsigned int))                   \
  X(host_unregister, cuMemHostUnregister, (void*))                                             \
  X(copy_to_device_async, cuMemcpyHtoDAsync_v2, (DevicePtr, const void*, std::size_t, Stream)) \
  X(stream_wait_event, cuStreamWaitEvent, (Stream, Event, unsigned int))                       \
  X(stream_synchronize, cuStreamSynchronize, (Stream))                                         \
  X(event_create, cuEventCreate, (Event*, unsigned int))                                       \
  X(event_record, cuEventRecord, (Event, Stream))                                              \
  X(event_query, cuEventQuery, (Event))                                                        \
  X(event_synchronize, cuEventSynchronize, (Event))                                            \
  X(event_destroy, cuEventDestroy_v2, (Event))

// The driver library, open for the life of the object. Loading it calls nothing in it.
class Driver {
 public:
  // Opens `path`. Throws DeviceError when it is no CUDA driver, or lacks an entry point.
  static std::shared_ptr<const Driver> load(const std::string& path = "libcuda.so.1");

  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  ~Driver();

#define FKAT_CUDA_MEMBER(member, symbol, parameters) Result(*member) parameters = nullptr;
  FKAT_CUDA_ENTRY_POINTS(FKAT_CUDA_MEMBER)
#undef FKAT_CUDA_MEMBER

  // Throws DeviceError unless `result` is success: what was tried, and the driver's own words.
  void check(Result result, const std::string& what) const;

  // "CUDA_ERROR_INVALID_VALUE (invalid argument)".
  std::string describe(Result result) const;

 private:
  explicit Driver(void* library) : library_(library) {}

  void* library_;
};

}  // namespace fkat::cuda
