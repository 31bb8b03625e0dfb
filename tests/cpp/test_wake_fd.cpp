// WakeFd: what ends a sleep, and what does not.

#include "shm/wake_fd.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "base/error.h"
#include "check.h"
#include "child.h"

namespace fkat {
namespace {

constexpr std::chrono::minutes kForever{10};
constexpr std::chrono::nanoseconds kNoTime{0};
const ProcessHandle kNobody;

// Whether the peer has exited.
bool sleep(const WakeFd& wake_fd, const ProcessHandle& peer, std::chrono::nanoseconds slice) {
  const WakeFd::Bed bed{&wake_fd, &peer};
  return WakeFd::sleep({&bed, 1}, slice).has_value();
}

bool is_set(const WakeFd& wake_fd) {
  eventfd_t count = 0;
  return eventfd_read(wake_fd.fd(), &count) == 0;
}

TEST(a_wake_ends_the_next_sleep_and_no_other) {
  const WakeFd wake_fd = WakeFd::create();
  wake_fd.wake();
  wake_fd.wake();
  CHECK(!sleep(wake_fd, kNobody, kForever));
  CHECK(!is_set(wake_fd));
}

TEST(a_peer_wakes_by_a_duplicate_of_the_descriptor) {
  const WakeFd wake_fd = WakeFd::create();
  const WakeFd same(wake_fd.fd());
  CHECK(same.fd() != wake_fd.fd());
  Child peer([&] {
    usleep(20'000);  // so that the sleep has most likely begun; correct without
    same.wake();
  });
  CHECK(!sleep(wake_fd, kNobody, kForever));
  CHECK_EQ(peer.wait(), 0);
}

TEST(a_sleep_ends_with_its_slice) {
  const WakeFd wake_fd = WakeFd::create();
  CHECK(!sleep(wake_fd, kNobody, kNoTime));
  CHECK(!sleep(wake_fd, kNobody, std::chrono::milliseconds(1)));
}

TEST(a_signal_ends_a_sleep) {
  signal(SIGALRM, [](int) {});
  const itimerval soon{{0, 20'000}, {0, 20'000}};  // again and again: one could come before it
  setitimer(ITIMER_REAL, &soon, nullptr);
  CHECK(!sleep(WakeFd::create(), kNobody, kForever));
  const itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
}

TEST(a_wake_and_a_death_are_both_seen) {
  const WakeFd wake_fd = WakeFd::create();
  Child peer([] {});
  const ProcessHandle process(peer.pidfd());
  CHECK(sleep(wake_fd, process, kForever));
  wake_fd.wake();
  CHECK(sleep(wake_fd, process, kForever));
  CHECK(!is_set(wake_fd));
}

TEST(of_several_beds_any_wakes_and_each_keeps_its_own) {
  const WakeFd first = WakeFd::create(), second = WakeFd::create();
  Child peer([] {
    for (;;) ::pause();
  });
  const ProcessHandle process(peer.pidfd());
  const WakeFd::Bed beds[] = {{&first, &kNobody}, {&second, &process}};
  second.wake();
  CHECK(!WakeFd::sleep(beds, kForever));
  CHECK(!is_set(second));
  first.wake();
  second.wake();
  CHECK(!WakeFd::sleep({beds, 1}, kForever));
  CHECK(!is_set(first));
  CHECK(is_set(second));
  peer.kill();
  CHECK(WakeFd::sleep(beds, kForever) == 1);
}

TEST(a_descriptor_that_user_code_closed_is_told) {
  Child peer([] {
    for (;;) ::pause();
  });
  const ProcessHandle process(peer.pidfd());
  const WakeFd open = WakeFd::create(), closed = WakeFd::create();
  close(closed.fd());
  close(process.pidfd());
  CHECK_THROWS(SystemError, sleep(closed, kNobody, kForever), "closed");
  CHECK_THROWS(SystemError, sleep(open, process, kForever), "closed");
  CHECK_THROWS(SystemError, closed.wake(), "closed");
}

TEST(a_file_that_got_the_number_is_neither_written_to_nor_read) {
  const WakeFd wake_fd = WakeFd::create();
  const int file = memfd_create("a file of the user's", MFD_CLOEXEC);
  CHECK_EQ(dup2(file, wake_fd.fd()), wake_fd.fd());
  CHECK_THROWS(SystemError, wake_fd.wake(), "closed");
  CHECK_THROWS(SystemError, sleep(wake_fd, kNobody, kForever), "closed");
  CHECK_EQ(lseek(file, 0, SEEK_CUR), 0);
  CHECK_EQ(lseek(file, 0, SEEK_END), 0);
  close(file);
}

TEST(what_is_no_descriptor_is_refused) {
  CHECK_THROWS(SystemError, WakeFd(-1), "eventfd");
}

}  // namespace
}  // namespace fkat
