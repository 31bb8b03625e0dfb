// Calls that are refused, copies that fail later, a driver that is gone, a forked child: what each
// does to the sources of copies, and who is told.

#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "base/error.h"
#include "child.h"
#include "stager_rig.h"

namespace fkat::cuda {
namespace {

TEST(a_refused_piece_keeps_the_source_until_those_before_it_are_done) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  const Bytes piece = rig.source().first(100);
  fake_cuda_fail("cuMemcpyHtoDAsync_v2", 2, 1, 999);
  CHECK_THROWS(DeviceError, rig.copy({piece, piece, piece, piece}, owner, "microbatch 7"),
               "microbatch 7: CUDA_ERROR_UNKNOWN (unknown error)");
  rig.stager->poll();
  CHECK_EQ(owner.use_count(), 2);
  fake_cuda_step(rig.stream);
  fake_cuda_step(rig.stream);  // the two copies
  rig.stager->poll();
  CHECK_EQ(owner.use_count(), 2);
  fake_cuda_step(rig.stream);
  rig.stager->poll();  // and throws no second time
  CHECK_EQ(fake_cuda_count("copies"), 2);
  CHECK_EQ(owner.use_count(), 1);
  CHECK(rig.target[199] == std::byte{1} && rig.target[200] == std::byte{0});
}

TEST(without_an_event_the_stream_says_when_the_source_is_free) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  fake_cuda_fail("cuEventRecord", 0, 1, 999);
  std::thread releaser([] { fake_cuda_release(); });
  CHECK_THROWS(DeviceError, rig.copy(owner, "microbatch 7"), "microbatch 7: CUDA_ERROR_UNKNOWN");
  releaser.join();
  CHECK_EQ(owner.use_count(), 1);
  CHECK_EQ(fake_cuda_count("in_flight"), 0);
  CHECK(rig.target == bytes_of(MiB, 1));
}

TEST(a_source_nobody_can_tell_about_is_kept_to_the_end) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  fake_cuda_fail("cuEventRecord", 0, 1, 999);
  fake_cuda_fail("cuStreamSynchronize", 0, 1, 999);
  CHECK_THROWS(DeviceError, rig.copy(owner), "CUDA_ERROR_UNKNOWN");
  rig.run();
  rig.stager->synchronize();
  CHECK_EQ(owner.use_count(), 2);
  rig.stager.reset();
  CHECK_EQ(owner.use_count(), 1);
}

TEST(without_an_event_to_record_nothing_is_copied) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  fake_cuda_fail("cuEventCreate", 0, 1, 2);
  CHECK_THROWS(DeviceError, rig.copy(owner), "making an event: CUDA_ERROR_OUT_OF_MEMORY");
  CHECK_EQ(fake_cuda_count("copies"), 0);
  CHECK_EQ(owner.use_count(), 1);
}

// The code of a broken context is the answer to every later call: of the copy that broke it, of
// those behind it, and of new ones.
TEST(a_copy_that_fails_later_is_named_once_and_its_source_kept) {
  StagerRig rig;
  const auto failed = std::make_shared<const int>(1);
  const auto behind = std::make_shared<const int>(2);
  fake_cuda_fail("copy", 0, 1, 719);
  const auto transfer = rig.copy(failed, "microbatch 7");
  rig.copy(behind, "microbatch 8");
  rig.stager->poll();
  fake_cuda_step(rig.stream);
  CHECK_THROWS(DeviceError, rig.stager->poll(),
               "microbatch 7: CUDA_ERROR_LAUNCH_FAILED (unspecified launch failure)");
  CHECK_THROWS(DeviceError, rig.stager->poll(), "microbatch 8: CUDA_ERROR_LAUNCH_FAILED");
  rig.stager->poll();
  rig.stager->synchronize();
  CHECK_THROWS(DeviceError, transfer->make_wait(nullptr), "microbatch 7: ");
  CHECK_THROWS(DeviceError, rig.copy(nullptr, "microbatch 9"), "CUDA_ERROR_LAUNCH_FAILED");
  CHECK_EQ(failed.use_count(), 2);
  CHECK_EQ(behind.use_count(), 2);
  rig.stager.reset();
  CHECK_EQ(failed.use_count(), 1);
  CHECK_EQ(behind.use_count(), 1);
}

TEST(synchronizing_names_what_failed_meanwhile) {
  StagerRig rig;
  fake_cuda_fail("copy", 1, 1, 700);
  rig.copy(nullptr, "microbatch 7");
  rig.copy(nullptr, "microbatch 8");
  fake_cuda_step(rig.stream);
  fake_cuda_step(rig.stream);
  rig.stager->poll();
  fake_cuda_release();
  CHECK_THROWS(DeviceError, rig.stager->synchronize(), "microbatch 8: CUDA_ERROR_ILLEGAL_ADDRESS");
  rig.stager->synchronize();
}

TEST(the_destructor_is_silent_about_failures) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  fake_cuda_fail("copy", 0, 1, 700);
  for (int i = 0; i < 3; ++i) rig.copy(owner);
  fake_cuda_release();
  rig.stager.reset();
  CHECK_EQ(owner.use_count(), 1);
}

TEST(the_destructor_waits_for_what_is_behind_a_failure) {
  StagerRig rig;
  std::int64_t in_flight_at_release = -1;
  std::shared_ptr<const int> owner(new int(1), [&](const int* value) {
    in_flight_at_release = fake_cuda_count("copies_in_flight");
    delete value;
  });
  rig.copy(nullptr);
  rig.copy(std::exchange(owner, nullptr));
  fake_cuda_fail("cuEventSynchronize", 0, 1, 999);
  fake_cuda_delay(2000, 3000);
  fake_cuda_release();
  rig.stager.reset();
  CHECK_EQ(in_flight_at_release, 0);
}

TEST(the_destructor_ends_when_the_driver_is_gone) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  for (int i = 0; i < 3; ++i) rig.copy(owner);
  fake_cuda_deinitialize();
  rig.driver_is_gone = true;
  rig.stager.reset();
  CHECK_EQ(owner.use_count(), 1);
}

TEST(a_forked_child_neither_waits_nor_calls) {
  StagerRig rig;
  const auto transfer = rig.copy(nullptr);
  Stager idle(rig.device.context);
  Child child([&] {
    CHECK_THROWS(DeviceError, idle.poll(), "CUDA does not survive fork");
    CHECK_THROWS(DeviceError, rig.copy(nullptr), "CUDA does not survive fork");
    CHECK_THROWS(DeviceError, rig.stager->poll(), "CUDA does not survive fork");
    CHECK_THROWS(DeviceError, rig.stager->synchronize(), "CUDA does not survive fork");
    CHECK_THROWS(DeviceError, transfer->make_wait(nullptr), "CUDA does not survive fork");
    rig.stager.reset();  // the engine is held: waiting would hang
  });
  CHECK_EQ(child.wait(), 0);
  CHECK_EQ(rig.stager->num_in_flight(), 1);
}

}  // namespace
}  // namespace fkat::cuda
