// What fake_cuda.h declares, but for its first and last words: see process.cpp.

#include <cstdio>
#include <cstring>
#include <string>

#include "copies.h"
#include "fake_cuda.h"
#include "report.h"
#include "state.h"

namespace fake {
namespace {

std::byte* host_address(std::uint64_t device) {
  return reinterpret_cast<std::byte*>(device);
}

void launch(void* stream, std::function<Result()> kernel) {
  const Lock lock(state().mutex);
  Stream* const queue = state().engine.find(stream);
  if (queue == nullptr) {
    violation("launched a kernel on a stream that is none");
    return;
  }
  state().engine.enqueue(*queue, {nullptr, std::move(kernel), {}, {}});
}

// With the state's lock held.
std::int64_t count(const State& s, const std::string& what) {
  if (what == "contexts") return s.contexts.num_retained();
  if (what == "events") return static_cast<std::int64_t>(s.events.size());
  if (what == "registrations") return s.registry.size();
  if (what == "registered_bytes") return s.registry.nbytes();
  if (what == "in_flight") return s.engine.in_flight();
  if (what == "copies_in_flight") return s.num_copies_in_flight;
  if (what == "copies") return s.num_copies;
  if (what == "copied_bytes") return s.copied_nbytes;
  if (what == "max_copy_bytes") return s.max_copy_nbytes;
  if (what == "max_registration_bytes") return static_cast<std::int64_t>(s.registry.max_nbytes());
  if (what == "violations") return num_violations();
  return is_entry_point(what) ? num_calls(what) : -1;
}

void free_everything(State& s) {
  s.engine.drop_all();
  s.events.clear();
  s.registry.clear();
  s.contexts.clear();
}

}  // namespace
}  // namespace fake

using namespace fake;

void fake_cuda_reset() {
  State& s = state();
  Lock lock(s.mutex);
  s.engine.release();
  s.engine.wait_until_idle(lock);
  free_everything(s);
  s.engine.forget_streams();
  s.engine.mend();
  s.engine.set_seed(0);
  s.engine.set_delay(0, 200);
  s.faults.clear();
  s.registry = Registry();
  s.contexts.set_num_devices(1);
  s.is_pageable_async = s.is_deinitialized = false;
  s.num_copies = s.copied_nbytes = s.max_copy_nbytes = 0;
  Contexts::stack().clear();
  forget_report();
}

void fake_cuda_seed(uint64_t seed) {
  const Lock lock(state().mutex);
  state().engine.set_seed(seed);
}

void fake_cuda_delay(unsigned min_us, unsigned max_us) {
  const Lock lock(state().mutex);
  state().engine.set_delay(min_us, max_us);
}

void fake_cuda_hold() {
  Lock lock(state().mutex);
  state().engine.hold(lock);
}

void fake_cuda_release() {
  const Lock lock(state().mutex);
  state().engine.release();
}

int fake_cuda_step(void* stream) {
  Lock lock(state().mutex);
  Stream* const queue = state().engine.find(stream);
  return queue != nullptr && state().engine.step(lock, *queue);
}

void* fake_cuda_stream_create() {
  const Lock lock(state().mutex);
  return state().engine.create_stream();
}

void fake_cuda_launch_read(void* stream, uint64_t device, void* host, size_t nbytes) {
  launch(stream, [=] {
    std::memcpy(host, host_address(device), nbytes);
    return kSuccess;
  });
}

void fake_cuda_launch_fill(void* stream, uint64_t device, int value, size_t nbytes) {
  launch(stream, [=] {
    std::memset(host_address(device), value, nbytes);
    return kSuccess;
  });
}

int fake_cuda_fail(const char* entry_point, unsigned after, int times, int code) {
  const std::string name = entry_point;
  if (name != "copy" && !is_entry_point(name)) return false;
  const Lock lock(state().mutex);
  state().faults.add(name, after, times, code);
  return true;
}

void fake_cuda_deinitialize() {
  const Lock lock(state().mutex);
  free_everything(state());
  state().is_deinitialized = true;
}

void fake_cuda_pageable_async(int is_async) {
  const Lock lock(state().mutex);
  state().is_pageable_async = is_async != 0;
}

void fake_cuda_limit_registered(uint64_t nbytes) {
  const Lock lock(state().mutex);
  state().registry.set_limit(nbytes);
}

void fake_cuda_set_num_devices(int num_devices) {
  const Lock lock(state().mutex);
  state().contexts.set_num_devices(num_devices);
}

int64_t fake_cuda_count(const char* what) {
  const Lock lock(state().mutex);
  return count(state(), what);
}

int fake_cuda_context_depth() {
  return static_cast<int>(Contexts::stack().size());
}

int fake_cuda_tells_pages_apart() {
  return tells_pages_apart();
}

const char* fake_cuda_violation(unsigned index) {
  return violation_text(index);
}

int fake_cuda_report(char* line, size_t nbytes) {
  std::string text;
  bool is_fine = true;
  const Lock lock(state().mutex);
  for (const char* what :
       {"contexts", "events", "registrations", "copies_in_flight", "violations"}) {
    const std::int64_t left = count(state(), what);
    is_fine = is_fine && left == 0;
    text += std::string(text.empty() ? "" : " ") + what + "=" + std::to_string(left);
  }
  for (unsigned i = 0; *violation_text(i) != '\0'; ++i)
    text += std::string("; ") + violation_text(i);
  std::snprintf(line, nbytes, "%s", text.c_str());
  return is_fine;
}
