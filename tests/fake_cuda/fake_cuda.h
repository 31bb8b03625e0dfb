// A CUDA driver for tests, without a GPU: the controls and observations of libfake_cuda.so.
//
// The library exports the entry points that csrc/cuda/driver.h names, with the driver's semantics.
// "Device memory" is plain memory of this process: a device pointer is an address. Streams are
// queues of work that a few threads execute late, after random delays, out of order between
// streams. A copy from memory that is registered reads it when it is executed; any other source is
// staged, so read before the call returns (CUDA does either).
//
// It watches its caller. A violation is something that CUDA would refuse, or would not notice and
// answer with wrong data:
//   - a source that changed between the call of its copy and its execution;
//   - a copy across the border of a registration, and two registrations that overlap;
//   - registering memory that is not page-aligned, empty, or not backed by memory yet;
//   - registered memory that is unmapped, or whose pages were replaced (a punched hole), when a
//     copy reads it or it is unregistered; unregistering it while a copy from it is in flight;
//   - a call without a current context, with a handle that is none, or in a forked child.
// Where the pages of a process cannot be told apart (that takes root), replaced pages pass
// unnoticed: see fake_cuda_tells_pages_apart.
//
// Plain C types, so that Python's ctypes can call it. May be called from any thread; calls from a
// forked child count and are violations, and the parent sees both. If the environment variable
// FAKE_CUDA_LOG names a file, every process that loads the library appends a line to it, and at its
// exit the line of fake_cuda_report.
//
// A device has one context, and stream 0 is a queue like the others: it waits for no other stream,
// as it is with streams made by torch (CU_STREAM_NON_BLOCKING).

#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define FAKE_CUDA_API extern "C" __attribute__((visibility("default")))
#else
#define FAKE_CUDA_API __attribute__((visibility("default")))
#endif

// As after loading: waits until nothing is in flight, then forgets faults, counts and violations,
// events, registrations and contexts, and streams but stream 0.
FAKE_CUDA_API void fake_cuda_reset(void);

// How the threads choose between streams and how long each piece of work takes, in microseconds.
// At first: seed 0, 0 to 200 us.
FAKE_CUDA_API void fake_cuda_seed(uint64_t seed);
FAKE_CUDA_API void fake_cuda_delay(unsigned min_us, unsigned max_us);

// While held, nothing is executed but by steps. Holding waits for what is being executed.
FAKE_CUDA_API void fake_cuda_hold(void);
FAKE_CUDA_API void fake_cuda_release(void);
// Executes the oldest work of the stream: 1. 0 if there is none, or it waits for an event.
FAKE_CUDA_API int fake_cuda_step(void* stream);

// A stream; lives until the reset.
FAKE_CUDA_API void* fake_cuda_stream_create(void);
// Work as of a kernel: copies device memory to where the host can look, or fills it.
FAKE_CUDA_API void fake_cuda_launch_read(void* stream, uint64_t device, void* host, size_t nbytes);
FAKE_CUDA_API void fake_cuda_launch_fill(void* stream, uint64_t device, int value, size_t nbytes);

// The `after`-th next call of an entry point (0: the next one) and the `times` - 1 behind it
// (-1: all of them) do nothing and return `code`. Of "copy": executions of copies, not calls. Then
// the context is broken: what is queued is dropped, and calls return `code` until the reset. False
// if there is no entry point of that name.
FAKE_CUDA_API int fake_cuda_fail(const char* entry_point, unsigned after, int times, int code);

// What a process meets that outlives the driver: everything is freed, and every call returns 4.
FAKE_CUDA_API void fake_cuda_deinitialize(void);

// Copies from memory that is not registered read it when they are executed, as on machines whose
// devices reach all memory. At first 0: it is staged.
FAKE_CUDA_API void fake_cuda_pageable_async(int is_async);

// Registering more than this in all fails with 2 (CUDA_ERROR_OUT_OF_MEMORY). At first no limit.
FAKE_CUDA_API void fake_cuda_limit_registered(uint64_t nbytes);

// Devices 0 to n - 1; at first one. PCI addresses are made from their numbers: device 0 is
// 0000:3B:00.0, device 1 is 0000:3C:00.0, in capitals, as CUDA writes them.
FAKE_CUDA_API void fake_cuda_set_num_devices(int num_devices);

// What there is now: "contexts" (retained), "events", "registrations", "registered_bytes",
// "in_flight" (work of any kind), "copies_in_flight". What there was: "copies", "copied_bytes",
// "max_copy_bytes", "max_registration_bytes", "violations", or the calls of an entry point, by its
// name. -1: unknown.
FAKE_CUDA_API int64_t fake_cuda_count(const char* what);

// How many contexts the calling thread has pushed and not popped.
FAKE_CUDA_API int fake_cuda_context_depth(void);

// Whether this process can see that a page of registered memory was replaced.
FAKE_CUDA_API int fake_cuda_tells_pages_apart(void);

// The text of the violation with that number; only the first 16 are kept. "" behind them.
FAKE_CUDA_API const char* fake_cuda_violation(unsigned index);

// One line: what is not balanced, and the violations. True if everything is balanced and there is
// none. Writes at most `nbytes`, the terminating 0 included.
FAKE_CUDA_API int fake_cuda_report(char* line, size_t nbytes);
