// The fake driver finds each way to break CUDA's rules: a test is only as good as that.

#include <algorithm>

#include "child.h"
#include "driver_rig.h"

namespace fkat::cuda {
namespace {

// Runs `body` on a rig, and what it has queued. The first violation that was found.
template <typename Body>
std::string violation_of(const Body& body) {
  DriverRig rig;
  rig.expect_violations();
  body(rig);
  fake_cuda_release();
  rig.driver().stream_synchronize(nullptr);
  return fake_cuda_violation(0);
}

bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  std::fprintf(stderr, "\"%s\" is not in: %s\n", part.c_str(), text.c_str());
  return false;
}

TEST(finds_a_source_that_changed_before_its_copy_was_executed) {
  const std::string text = violation_of([](DriverRig& rig) {
    rig.copy(nullptr, rig.source(), 1000);
    rig.source()[999] = std::byte{2};
  });
  CHECK(contains(text, "the source of a copy changed before it was executed: 1000 bytes"));
}

TEST(finds_such_a_change_also_where_the_device_reads_pageable_memory) {
  Memory pageable = bytes_of(100, 7);
  const std::string text = violation_of([&](DriverRig& rig) {
    fake_cuda_pageable_async(1);
    rig.copy(nullptr, pageable.data(), 100);
    pageable[0] = std::byte{8};
  });
  CHECK(contains(text, "the source of a copy changed"));
}

TEST(finds_a_copy_across_a_border) {
  for (const std::uint64_t border : {MiB, 2 * MiB}) {  // registered from 1 to 2 MiB
    FakeDevice device;
    device.expects_violations = true;
    const DeviceContext::Current current(*device.context);
    const auto segment = filled_segment(3 * MiB, 1);
    Memory target = bytes_of(MiB, 0);
    device.driver->host_register(segment->data() + MiB, MiB, 0);
    CHECK_EQ(device.driver->copy_to_device_async(device_pointer(target),
                                                 segment->data() + border - 1, 2, nullptr),
             1);
    CHECK(contains(fake_cuda_violation(0), "across the border of a registration: 2 bytes"));
  }
}

TEST(finds_what_must_not_be_registered) {
  const auto segment = Segment::create(MiB);
  segment->commit(0, MiB / 2);
  std::byte* const begin = segment->data();
  const auto registered = [](std::byte* at, std::uint64_t nbytes, Result expected) {
    return violation_of(
        [=](DriverRig& rig) { CHECK_EQ(rig.driver().host_register(at, nbytes, 0), expected); });
  };
  CHECK(contains(registered(begin, 0, 1), "what are not whole pages: 0 bytes"));
  CHECK(contains(registered(begin + 64, kPage, 1), "what are not whole pages"));
  CHECK(contains(registered(begin, MiB / 2 + kPage, 1), "what has no memory yet"));
  CHECK(contains(violation_of([](DriverRig& rig) {
                   CHECK_EQ(rig.driver().host_register(rig.source() + kPage, kPage, 0), 712);
                 }),
                 "what is registered already"));
  CHECK(contains(violation_of([](DriverRig& rig) {
                   CHECK_EQ(rig.driver().host_unregister(rig.source() + kPage), 713);
                 }),
                 "unregistered what is not registered"));
}

TEST(finds_pages_that_were_given_back_under_a_registration) {
  const std::string text = violation_of([](DriverRig& rig) {
    rig.copy(nullptr, rig.source(), MiB);
    rig.segment().decommit(3 * kPage, kPage);
  });
  CHECK(contains(text, "copied pages that have no memory any more"));
}

TEST(finds_pages_that_were_replaced_under_a_registration) {
  if (fake_cuda_tells_pages_apart() == 0) return;
  const std::string text = violation_of([](DriverRig& rig) {
    rig.segment().decommit(3 * kPage, kPage);
    rig.segment().commit(3 * kPage, kPage);
    std::fill_n(rig.source(), MiB, std::byte{1});
    rig.copy(nullptr, rig.source(), MiB);
  });
  CHECK(contains(text, "copied pages whose pages were replaced"));
}

TEST(finds_memory_that_is_unmapped_before_it_is_unregistered) {
  FakeDevice device;
  device.expects_violations = true;
  const DeviceContext::Current current(*device.context);
  auto segment = filled_segment(MiB, 1);
  std::byte* const begin = segment->data();
  device.driver->host_register(begin, MiB, 0);
  segment.reset();
  CHECK_EQ(device.driver->host_unregister(begin), 0);
  CHECK(contains(fake_cuda_violation(0), "unregistered pages that have no memory any more"));
}

TEST(finds_memory_that_is_unregistered_while_it_is_read) {
  const std::string text = violation_of([](DriverRig& rig) {
    rig.copy(nullptr, rig.source(), 8);
    rig.driver().host_unregister(rig.source());
  });
  CHECK(contains(text, "unregistered while a copy of it is in flight"));
}

TEST(finds_calls_without_a_context) {
  FakeDevice device;
  device.expects_violations = true;
  Event event = nullptr;
  CHECK_EQ(device.driver->event_create(&event, 0), 201);
  CHECK(contains(fake_cuda_violation(0), "cuEventCreate was called without a current context"));
}

TEST(finds_handles_that_are_none) {
  const std::string text = violation_of([](DriverRig& rig) {
    Event event = nullptr;
    rig.driver().event_create(&event, 0);
    rig.driver().event_destroy(event);
    CHECK_EQ(rig.driver().event_record(event, nullptr), 400);
  });
  CHECK(contains(text, "cuEventRecord was called with a handle that is none"));
}

TEST(finds_calls_in_a_forked_child) {
  FakeDevice device;
  device.expects_violations = true;
  Child child([&] {
    int version = 0;
    CHECK_EQ(device.driver->driver_get_version(&version), 3);
  });
  const pid_t pid = child.pid();
  CHECK_EQ(child.wait(), 0);
  CHECK_EQ(fake_cuda_violation(0),
           "process " + std::to_string(pid) + ": cuDriverGetVersion was called in a forked child");
}

}  // namespace
}  // namespace fkat::cuda
