// The driver's entry points. What each returns, and which need a current context, is as
// docs.nvidia.com/cuda/cuda-driver-api says; where that leaves a choice, the stricter.

#include <cstdio>
#include <cstring>
#include <string>

#include "copies.h"
#include "errors.h"
#include "fake_cuda.h"
#include "report.h"
#include "state.h"

namespace fake {
namespace {

enum class Kind {
  kText,    // works at any time
  kDevice,  // needs no context
  kQuery,   // needs none, but tells that the context is broken
  kWork,    // needs a context that is not broken
  kFree,    // needs a context; does its work even if it is broken, and tells
};

// One call: what keeps it from being done, in the order in which it can be told.
template <typename Body>
Result call(const char* name, Kind kind, const Body& body) {
  count_call(name);
  if (!is_own_process()) {
    violation(std::string(name) + " was called in a forked child");
    return kNotInitialized;
  }
  State& s = state();
  Lock lock(s.mutex);
  if (kind == Kind::kText) return body(s, lock);
  if (s.is_deinitialized) return kDeinitialized;
  const Result fault = s.faults.take(name);
  if (fault != kSuccess) return fault;
  const bool needs_context = kind == Kind::kWork || kind == Kind::kFree;
  if (needs_context && Contexts::stack().empty()) {
    violation(std::string(name) + " was called without a current context");
    return kInvalidContext;
  }
  const Result broken = kind == Kind::kDevice ? kSuccess : s.engine.broken();
  if (broken != kSuccess && kind != Kind::kFree) return broken;
  const Result result = body(s, lock);
  return result == kSuccess ? broken : result;
}

Result bad_handle(const char* name) {
  violation(std::string(name) + " was called with a handle that is none");
  return kInvalidHandle;
}

// Calls `body` with the event and the stream of these handles.
template <typename Body>
Result with(State& s, const char* name, void* event, void* stream, const Body& body) {
  const auto found = s.events.find(event);
  Stream* const queue = s.engine.find(stream);
  if (found == s.events.end() || queue == nullptr) return bad_handle(name);
  return body(found->second, *queue);
}

}  // namespace
}  // namespace fake

using namespace fake;

FAKE_CUDA_API Result cuGetErrorName(Result code, const char** name) {
  return call(__func__, Kind::kText, [&](State&, Lock&) {
    *name = error_name(code);
    return *name == nullptr ? kInvalidValue : kSuccess;
  });
}

FAKE_CUDA_API Result cuGetErrorString(Result code, const char** text) {
  return call(__func__, Kind::kText, [&](State&, Lock&) {
    *text = error_text(code);
    return *text == nullptr ? kInvalidValue : kSuccess;
  });
}

FAKE_CUDA_API Result cuDriverGetVersion(int* version) {
  return call(__func__, Kind::kDevice, [&](State&, Lock&) {
    *version = 13000;
    return kSuccess;
  });
}

FAKE_CUDA_API Result cuDeviceGet(int* device, int ordinal) {
  return call(__func__, Kind::kDevice, [&](State& s, Lock&) {
    if (!s.contexts.has_device(ordinal)) return kInvalidDevice;
    *device = ordinal;
    return kSuccess;
  });
}

FAKE_CUDA_API Result cuDeviceGetPCIBusId(char* text, int nbytes, int device) {
  return call(__func__, Kind::kDevice, [&](State& s, Lock&) {
    if (!s.contexts.has_device(device)) return kInvalidDevice;
    char id[16];
    std::snprintf(id, sizeof id, "0000:%02X:00.0", (0x3B + device) & 0xFF);
    if (nbytes <= static_cast<int>(std::strlen(id))) return kInvalidValue;
    std::strcpy(text, id);
    return kSuccess;
  });
}

FAKE_CUDA_API Result cuDevicePrimaryCtxRetain(Context** context, int device) {
  return call(__func__, Kind::kDevice, [&](State& s, Lock&) {
    if (!s.contexts.has_device(device)) return kInvalidDevice;
    *context = s.contexts.retain(device);
    return kSuccess;
  });
}

FAKE_CUDA_API Result cuDevicePrimaryCtxRelease_v2(int device) {
  return call(__func__, Kind::kDevice, [&](State& s, Lock&) { return s.contexts.release(device); });
}

FAKE_CUDA_API Result cuCtxPushCurrent_v2(Context* context) {
  return call(__func__, Kind::kDevice, [&](State& s, Lock&) {
    if (!s.contexts.is_retained(context)) {
      violation("made a context current that is not retained");
      return kInvalidContext;
    }
    Contexts::stack().push_back(context);
    return kSuccess;
  });
}

FAKE_CUDA_API Result cuCtxPopCurrent_v2(Context** context) {
  return call(__func__, Kind::kDevice, [&](State&, Lock&) {
    if (Contexts::stack().empty()) {
      violation("popped a context where none is current");
      return kInvalidContext;
    }
    *context = Contexts::stack().back();
    Contexts::stack().pop_back();
    return kSuccess;
  });
}

FAKE_CUDA_API Result cuMemHostRegister_v2(void* begin, std::size_t nbytes, unsigned int flags) {
  return call(__func__, Kind::kWork, [&](State& s, Lock&) {
    if (flags > 15) return kInvalidValue;
    return s.registry.add(static_cast<std::byte*>(begin), nbytes);
  });
}

FAKE_CUDA_API Result cuMemHostUnregister(void* begin) {
  return call(__func__, Kind::kFree,
              [&](State& s, Lock&) { return s.registry.remove(static_cast<std::byte*>(begin)); });
}

FAKE_CUDA_API Result cuMemcpyHtoDAsync_v2(unsigned long long destination, const void* source,
                                          std::size_t nbytes, void* stream) {
  return call(__func__, Kind::kWork, [&](State& s, Lock&) {
    Stream* const queue = s.engine.find(stream);
    if (queue == nullptr) return bad_handle("cuMemcpyHtoDAsync_v2");
    return enqueue_copy(s, *queue, reinterpret_cast<std::byte*>(destination),
                        static_cast<std::byte*>(const_cast<void*>(source)), nbytes);
  });
}

FAKE_CUDA_API Result cuStreamWaitEvent(void* stream, void* event, unsigned int flags) {
  return call(__func__, Kind::kWork, [&](State& s, Lock&) {
    if (flags > 1) return kInvalidValue;
    return with(s, "cuStreamWaitEvent", event, stream, [&](Event& e, Stream& queue) {
      if (e.last != nullptr) s.engine.enqueue(queue, {e.last, {}, {}, {}});
      return kSuccess;
    });
  });
}

FAKE_CUDA_API Result cuStreamSynchronize(void* stream) {
  return call(__func__, Kind::kWork, [&](State& s, Lock& lock) {
    Stream* const queue = s.engine.find(stream);
    if (queue == nullptr) return bad_handle("cuStreamSynchronize");
    s.engine.wait(lock, *queue);
    return s.engine.broken();
  });
}

FAKE_CUDA_API Result cuEventCreate(void** event, unsigned int flags) {
  return call(__func__, Kind::kWork, [&](State& s, Lock&) {
    if (flags > 7) return kInvalidValue;
    s.last_event += 16;
    *event = reinterpret_cast<void*>(s.last_event);
    s.events.emplace(*event, Event{});
    return kSuccess;
  });
}

FAKE_CUDA_API Result cuEventRecord(void* event, void* stream) {
  return call(__func__, Kind::kWork, [&](State& s, Lock&) {
    return with(s, "cuEventRecord", event, stream, [&](Event& e, Stream& queue) {
      const auto mark = std::make_shared<Mark>();
      e.last = mark;
      s.engine.enqueue(queue, {nullptr, {}, [mark] { mark->is_reached = true; }, {}});
      return kSuccess;
    });
  });
}

FAKE_CUDA_API Result cuEventQuery(void* event) {
  return call(__func__, Kind::kQuery, [&](State& s, Lock&) {
    return with(s, "cuEventQuery", event, nullptr, [](const Event& e, Stream&) {
      return e.last == nullptr || e.last->is_reached ? kSuccess : kNotReady;
    });
  });
}

FAKE_CUDA_API Result cuEventSynchronize(void* event) {
  return call(__func__, Kind::kWork, [&](State& s, Lock& lock) {
    return with(s, "cuEventSynchronize", event, nullptr, [&](const Event& e, Stream&) {
      if (const auto last = e.last) s.engine.wait(lock, *last);
      return s.engine.broken();
    });
  });
}

FAKE_CUDA_API Result cuEventDestroy_v2(void* event) {
  return call(__func__, Kind::kFree, [&](State& s, Lock&) {
    return s.events.erase(event) == 1 ? kSuccess : bad_handle("cuEventDestroy_v2");
  });
}
