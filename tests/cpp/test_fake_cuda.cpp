// The fake driver keeps CUDA's rules: what the other tests rest on.

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <thread>

#include "child.h"
#include "driver_rig.h"

namespace fkat::cuda {
namespace {

TEST(a_copy_reads_its_source_when_it_is_executed_and_not_before) {
  DriverRig rig;
  const Stream stream = new_stream();
  CHECK_EQ(rig.copy(stream, rig.source(), MiB), 0);
  CHECK(rig.target() == bytes_of(MiB, 0));
  CHECK_EQ(fake_cuda_count("in_flight"), 1);
  CHECK_EQ(fake_cuda_step(stream), 1);
  CHECK(rig.target() == bytes_of(MiB, 1));
  CHECK_EQ(fake_cuda_count("in_flight"), 0);
  CHECK_EQ(fake_cuda_step(stream), 0);
}

TEST(a_source_that_is_not_registered_may_change_behind_the_call) {
  DriverRig rig;
  Memory pageable = bytes_of(100, 7);
  CHECK_EQ(rig.copy(nullptr, pageable.data(), 100), 0);
  pageable = bytes_of(100, 8);
  CHECK_EQ(fake_cuda_step(nullptr), 1);
  CHECK(rig.target()[99] == std::byte{7});
}

TEST(an_event_is_reached_in_its_place_in_the_stream) {
  DriverRig rig;
  const Stream stream = new_stream();
  const Event event = rig.new_event();
  CHECK_EQ(rig.driver().event_query(event), kSuccess);
  rig.copy(stream, rig.source(), 8);
  CHECK_EQ(rig.driver().event_record(event, stream), 0);
  CHECK_EQ(rig.driver().event_query(event), kNotReady);
  fake_cuda_step(stream);
  CHECK_EQ(rig.driver().event_query(event), kNotReady);
  fake_cuda_step(stream);
  CHECK_EQ(rig.driver().event_query(event), kSuccess);
}

TEST(a_stream_waits_for_the_recording_that_was_the_last_at_the_call) {
  DriverRig rig;
  const Stream first = new_stream();
  const Stream second = new_stream();
  const Event event = rig.new_event();
  CHECK_EQ(rig.driver().stream_wait_event(second, event, 0), 0);  // never recorded: no wait
  CHECK_EQ(fake_cuda_count("in_flight"), 0);

  rig.driver().event_record(event, first);
  rig.driver().stream_wait_event(second, event, 0);
  rig.driver().event_record(event, first);
  CHECK_EQ(fake_cuda_step(second), 0);
  CHECK_EQ(fake_cuda_step(first), 1);
  CHECK_EQ(fake_cuda_step(second), 1);
  CHECK_EQ(rig.driver().event_query(event), kNotReady);  // its second recording
}

TEST(an_event_may_be_destroyed_before_it_is_reached) {
  DriverRig rig;
  Event event = nullptr;
  rig.driver().event_create(&event, 0);
  rig.driver().event_record(event, nullptr);
  rig.driver().stream_wait_event(nullptr, event, 0);
  CHECK_EQ(rig.driver().event_destroy(event), 0);
  fake_cuda_release();
  CHECK_EQ(rig.driver().stream_synchronize(nullptr), 0);
}

TEST(synchronizing_blocks_until_what_is_before_it_was_executed) {
  DriverRig rig;
  const Event event = rig.new_event();
  rig.copy(nullptr, rig.source(), MiB);
  rig.driver().event_record(event, nullptr);
  std::thread releaser([] { fake_cuda_release(); });
  {
    const std::unique_ptr<std::thread, void (*)(std::thread*)> join(
        &releaser, [](std::thread* thread) { thread->join(); });
    CHECK_EQ(rig.driver().event_synchronize(event), 0);
    CHECK(rig.target() == bytes_of(MiB, 1));
  }
}

TEST(streams_overtake_one_another) {
  DriverRig rig;
  fake_cuda_release();
  fake_cuda_delay(0, 100);
  bool overtook = false;
  for (int round = 0; round < 1000 && !overtook; ++round) {
    const Stream first = new_stream();
    const Stream second = new_stream();
    const Event early = rig.new_event();
    const Event late = rig.new_event();
    rig.driver().event_record(early, first);
    rig.driver().event_record(late, second);
    rig.driver().event_synchronize(late);
    overtook = rig.driver().event_query(early) == kNotReady;
    rig.driver().event_synchronize(early);
  }
  CHECK(overtook);
}

TEST(a_call_fails_as_often_as_it_was_told_to) {
  DriverRig rig;
  CHECK_EQ(fake_cuda_fail("cuEventQuery", 1, 2, 999), 1);
  CHECK_EQ(fake_cuda_fail("cuNothing", 0, 1, 999), 0);
  const Event event = rig.new_event();
  std::vector<Result> results;
  for (int i = 0; i < 4; ++i) results.push_back(rig.driver().event_query(event));
  CHECK(results == std::vector<Result>{0, 999, 999, 0});
  CHECK_EQ(fake_cuda_count("cuEventQuery"), 4);
}

TEST(a_copy_that_fails_breaks_the_context_and_drops_what_is_queued) {
  DriverRig rig;
  fake_cuda_fail("copy", 1, 1, 719);
  for (int i = 0; i < 3; ++i) rig.copy(nullptr, rig.source(), 1000 << i);
  fake_cuda_release();
  CHECK_EQ(rig.driver().stream_synchronize(nullptr), 719);
  CHECK_EQ(rig.copy(nullptr, rig.source(), 8), 719);
  CHECK(rig.target()[999] == std::byte{1} && rig.target()[1000] == std::byte{0});
  CHECK_EQ(fake_cuda_count("in_flight"), 0);
}

TEST(a_driver_that_is_gone_does_nothing_and_says_so) {
  FakeDevice device;
  fake_cuda_deinitialize();
  Context context = nullptr;
  CHECK_EQ(device.driver->primary_context_retain(&context, 0), 4);
  CHECK_EQ(device.driver->describe(4), "CUDA_ERROR_DEINITIALIZED (driver shutting down)");
}

TEST(registering_has_a_limit) {
  DriverRig rig;
  fake_cuda_limit_registered(2 * MiB);
  const auto more = filled_segment(2 * MiB, 0);
  CHECK_EQ(rig.driver().host_register(more->data(), 2 * MiB, 0), 2);
  CHECK_EQ(rig.driver().host_register(more->data(), MiB, 0), 0);
  CHECK_EQ(fake_cuda_count("registered_bytes"), 2 * MiB);
  CHECK_EQ(rig.driver().host_unregister(more->data()), 0);
}

TEST(every_process_that_loads_it_logs_how_it_ended) {
  char path[] = "/tmp/fake_cuda_log_XXXXXX";
  close(mkstemp(path));
  Child child([&] {
    setenv("FAKE_CUDA_LOG", path, 1);
    execl("/proc/self/exe", "test_fake_cuda", "registering_has_a_limit", nullptr);
  });
  const std::string pid = "pid=" + std::to_string(child.pid());
  CHECK_EQ(child.wait(), 0);
  std::ifstream log(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(log, line);) lines.push_back(line);
  unlink(path);
  CHECK(lines == (std::vector<std::string>{pid + " loaded", pid + " " + kBalanced}));
}

}  // namespace
}  // namespace fkat::cuda
