// What the library has seen: calls and violations, in memory that forked children share.
//
// No locks, so that a child may report although another thread of its parent held one at the fork.

#pragma once

#include <cstdint>
#include <string>

namespace fake {

inline constexpr const char* kEntryPoints[] = {"cuGetErrorName",
                                               "cuGetErrorString",
                                               "cuDriverGetVersion",
                                               "cuDeviceGet",
                                               "cuDeviceGetPCIBusId",
                                               "cuDevicePrimaryCtxRetain",
                                               "cuDevicePrimaryCtxRelease_v2",
                                               "cuCtxPushCurrent_v2",
                                               "cuCtxPopCurrent_v2",
                                               "cuMemHostRegister_v2",
                                               "cuMemHostUnregister",
                                               "cuMemcpyHtoDAsync_v2",
                                               "cuStreamWaitEvent",
                                               "cuStreamSynchronize",
                                               "cuEventCreate",
                                               "cuEventRecord",
                                               "cuEventQuery",
                                               "cuEventSynchronize",
                                               "cuEventDestroy_v2"};

// Whether there is an entry point of that name.
bool is_entry_point(const std::string& name);

// Whether this is the process that loaded the library, and not a forked child.
bool is_own_process();

void count_call(const char* entry_point);
std::int64_t num_calls(const std::string& entry_point);

void violation(const std::string& text);
std::int64_t num_violations();
const char* violation_text(unsigned index);

void forget_report();

}  // namespace fake
