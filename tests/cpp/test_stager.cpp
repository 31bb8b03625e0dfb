// Copies in flight: how long their sources are kept, and who waits for them.

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "stager_rig.h"

namespace fkat::cuda {
namespace {

bool is_kept(const std::weak_ptr<const int>& owner) {
  return !owner.expired();
}

TEST(a_source_is_kept_until_its_event_and_not_longer) {
  StagerRig rig;
  auto owner = std::make_shared<const int>(1);
  const std::weak_ptr<const int> watched = owner;
  const auto transfer = rig.copy(std::exchange(owner, nullptr));
  rig.stager->poll();
  CHECK(is_kept(watched));
  fake_cuda_step(rig.stream);  // the copy; not yet its event
  rig.stager->poll();
  CHECK(is_kept(watched));
  CHECK_EQ(rig.stager->num_in_flight(), 1);
  fake_cuda_step(rig.stream);
  CHECK(is_kept(watched));
  rig.stager->poll();
  CHECK(!is_kept(watched));  // although somebody holds the transfer
  CHECK_EQ(rig.stager->num_in_flight(), 0);
  CHECK(rig.target == bytes_of(MiB, 1));
}

TEST(copies_are_released_one_by_one_as_they_are_done) {
  StagerRig rig;
  std::vector<Owner> owners;
  for (int i = 0; i < 3; ++i) rig.copy(owners.emplace_back(std::make_shared<const int>(i)));
  std::vector<std::vector<long>> counts;
  for (int i = 0; i < 3; ++i) {
    fake_cuda_step(rig.stream);
    fake_cuda_step(rig.stream);
    rig.stager->poll();
    counts.push_back({owners[0].use_count(), owners[1].use_count(), owners[2].use_count()});
  }
  CHECK(counts == (std::vector<std::vector<long>>{{1, 2, 2}, {1, 1, 2}, {1, 1, 1}}));
}

TEST(pieces_are_copied_one_behind_the_other) {
  StagerRig rig;
  std::fill_n(const_cast<std::byte*>(rig.source().data()), 10, std::byte{5});
  rig.copy({rig.source().first(20), rig.source().subspan(8, 4), rig.source().first(0)}, nullptr);
  rig.run();
  Memory expected = bytes_of(MiB, 0);
  for (int i = 0; i < 24; ++i) {
    expected[static_cast<std::size_t>(i)] = std::byte(i < 10 || i == 20 || i == 21 ? 5 : 1);
  }
  CHECK(rig.target == expected);
}

TEST(a_copy_of_nothing_is_done_like_any_other) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  rig.copy({}, owner);
  CHECK_EQ(owner.use_count(), 2);
  rig.run();
  rig.stager->poll();
  CHECK_EQ(owner.use_count(), 1);
}

TEST(a_stream_that_waits_reads_what_was_copied) {
  StagerRig rig;
  const Stream consumer = new_stream();
  Memory seen = bytes_of(MiB, 9);
  const auto transfer = rig.copy(nullptr);
  transfer->make_wait(consumer);
  fake_cuda_launch_read(consumer, device_pointer(rig.target), seen.data(), MiB);
  CHECK_EQ(fake_cuda_step(consumer), 0);
  rig.run();
  CHECK_EQ(fake_cuda_step(consumer), 1);
  CHECK_EQ(fake_cuda_step(consumer), 1);
  CHECK(seen == bytes_of(MiB, 1));
}

TEST(a_stream_that_does_not_wait_reads_what_was_there_before) {
  StagerRig rig;
  const Stream consumer = new_stream();
  Memory seen = bytes_of(MiB, 9);
  rig.copy(nullptr);
  fake_cuda_launch_read(consumer, device_pointer(rig.target), seen.data(), MiB);
  CHECK_EQ(fake_cuda_step(consumer), 1);
  CHECK(seen == bytes_of(MiB, 0));
}

TEST(waiting_for_a_copy_does_not_wait_for_those_behind_it) {
  StagerRig rig;
  const Stream consumer = new_stream();
  const auto first = rig.copy(nullptr);
  const auto second = rig.copy(nullptr);
  first->make_wait(consumer);
  fake_cuda_step(rig.stream);
  fake_cuda_step(rig.stream);
  CHECK_EQ(fake_cuda_step(consumer), 1);
}

TEST(any_number_of_streams_may_wait) {
  StagerRig rig;
  const auto transfer = rig.copy(nullptr);
  std::vector<Stream> consumers{nullptr, new_stream(), new_stream()};
  for (const Stream consumer : consumers) transfer->make_wait(consumer);
  for (const Stream consumer : consumers) CHECK_EQ(fake_cuda_step(consumer), 0);
  rig.run();
  for (const Stream consumer : consumers) CHECK_EQ(fake_cuda_step(consumer), 1);
}

TEST(nobody_waits_for_a_copy_that_is_known_to_be_done) {
  StagerRig rig;
  const auto transfer = rig.copy(nullptr);
  rig.run();
  rig.stager->poll();
  transfer->make_wait(new_stream());
  CHECK_EQ(fake_cuda_count("cuStreamWaitEvent"), 0);
}

TEST(awaiting_the_oldest_does_not_wait_for_those_behind_it) {
  StagerRig rig;
  for (int i = 0; i < 2; ++i) rig.copy(nullptr);
  std::thread stepper([&] {
    fake_cuda_step(rig.stream);
    fake_cuda_step(rig.stream);
  });
  rig.stager->await_oldest();
  stepper.join();
  CHECK_EQ(rig.stager->num_in_flight(), 1);
  CHECK_EQ(fake_cuda_count("copies_in_flight"), 1);
}

TEST(synchronizing_ends_when_nothing_is_in_flight) {
  StagerRig rig;
  const auto owner = std::make_shared<const int>(1);
  for (int i = 0; i < 3; ++i) rig.copy(owner);
  std::thread releaser([] { fake_cuda_release(); });
  rig.stager->synchronize();
  releaser.join();
  CHECK_EQ(rig.stager->num_in_flight(), 0);
  CHECK_EQ(owner.use_count(), 1);
  CHECK(rig.target == bytes_of(MiB, 1));
}

TEST(the_destructor_waits_for_what_is_in_flight) {
  StagerRig rig;
  std::atomic<bool> is_released{false};
  const std::shared_ptr<const void> owner(&rig, [&](const void*) { is_released = true; });
  rig.stager->copy(std::vector<Bytes>{rig.source()}, device_pointer(rig.target), rig.stream, owner,
                   "a copy");
  const_cast<std::shared_ptr<const void>&>(owner).reset();
  CHECK(!is_released);
  std::thread releaser([] { fake_cuda_release(); });
  rig.stager.reset();
  releaser.join();
  CHECK(is_released);
  CHECK(rig.target == bytes_of(MiB, 1));
}

TEST(events_are_used_again) {
  StagerRig rig;
  for (int i = 0; i < 10'000; ++i) {
    rig.copy({rig.source().first(64)}, nullptr);
    if (i % 3 == 2) {
      rig.run();
      rig.stager->poll();
    }
  }
  CHECK_EQ(fake_cuda_count("copies"), 10'000);
  CHECK_EQ(fake_cuda_count("events"), 3);
}

TEST(an_event_is_not_used_again_while_its_transfer_is_held) {
  StagerRig rig;
  std::vector<std::shared_ptr<const Transfer>> held;
  for (int i = 0; i < 5; ++i) {
    held.push_back(rig.copy(nullptr));
    rig.run();
    rig.stager->poll();
  }
  CHECK_EQ(fake_cuda_count("events"), 5);
  held.clear();
  rig.copy(nullptr);
  CHECK_EQ(fake_cuda_count("cuEventCreate"), 5);
}

TEST(a_transfer_may_outlive_its_stager) {
  StagerRig rig;
  const auto transfer = rig.copy(nullptr);
  fake_cuda_release();
  rig.stager.reset();
  transfer->make_wait(new_stream());
  CHECK_EQ(fake_cuda_count("events"), 1);
}

TEST(a_transfer_may_die_in_another_thread) {
  StagerRig rig;
  fake_cuda_release();
  std::mutex mutex;
  std::vector<std::shared_ptr<const Transfer>> transfers;
  std::atomic<bool> is_over{false};
  std::thread dropper([&] {
    while (!is_over) {
      std::vector<std::shared_ptr<const Transfer>> dying;
      const std::lock_guard lock(mutex);
      dying.swap(transfers);
    }
  });
  for (int i = 0; i < 1000; ++i) {
    auto transfer = rig.copy({rig.source().first(64)}, nullptr);
    rig.stager->synchronize();
    const std::lock_guard lock(mutex);
    transfers.push_back(std::move(transfer));
  }
  is_over = true;
  dropper.join();
}

TEST(leaves_the_caller_s_context_as_it_was) {
  StagerRig rig;
  const auto check_none_is_current = [] { CHECK_EQ(fake_cuda_context_depth(), 0); };
  const auto transfer = rig.copy(nullptr);
  check_none_is_current();
  transfer->make_wait(nullptr);
  check_none_is_current();
  rig.stager->poll();
  check_none_is_current();
  fake_cuda_fail("cuMemcpyHtoDAsync_v2", 0, 1, 1);
  CHECK_THROWS(DeviceError, rig.copy(nullptr), "INVALID_VALUE");
  check_none_is_current();
  fake_cuda_release();
  rig.stager->synchronize();
  check_none_is_current();
}

}  // namespace
}  // namespace fkat::cuda
