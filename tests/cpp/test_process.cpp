// Watching processes die, with real SIGKILLs.

#include <sys/prctl.h>

#include <atomic>

#include "base/error.h"
#include "check.h"
#include "child.h"
#include "shm/process.h"
#include "shm/wake_fd.h"

namespace fkat {
namespace {

void sleep_forever() {
  for (;;) ::pause();
}

bool exits_within(const ProcessHandle& process, std::chrono::nanoseconds time) {
  const WakeFd wake_fd = WakeFd::create();
  const WakeFd::Bed bed{&wake_fd, &process};
  return WakeFd::sleep({&bed, 1}, time).has_value();
}

bool has_exited(const ProcessHandle& process) {
  return exits_within(process, std::chrono::nanoseconds(0));
}

void await_exit(const ProcessHandle& process) {
  CHECK(exits_within(process, std::chrono::minutes(10)));
}

TEST(reports_an_exit_while_a_zombie_and_after) {
  Child child(sleep_forever);
  const ProcessHandle process(child.pidfd());
  CHECK(!has_exited(process));
  child.kill();
  await_exit(process);  // nobody has reaped it
  CHECK(has_exited(process));
  CHECK_EQ(child.wait(), -SIGKILL);
  CHECK(has_exited(process));
}

TEST(keeps_its_own_descriptor) {
  Child child(sleep_forever);
  const int pidfd = open_pidfd(child.pid());
  const ProcessHandle process(pidfd);
  close(pidfd);
  CHECK(!has_exited(process));
  child.kill();
  await_exit(process);
}

TEST(a_default_made_handle_watches_nobody) {
  Child child(sleep_forever);
  ProcessHandle process;
  CHECK(!has_exited(process));
  ProcessHandle other(child.pidfd());
  process = std::move(other);
  child.kill();
  await_exit(process);
  CHECK_THROWS(SystemError, ProcessHandle(-1), "pidfd");
}

// Forks a process that dies with `watched`, and says so in `ready`.
template <typename Body>
auto dying_with(const Child& watched, std::atomic<int>& ready, const Body& body) {
  return [&] {
    die_with(watched.pidfd());
    ready.store(1);
    body();
  };
}

void await_ready(const std::atomic<int>& ready) {
  while (ready.load() == 0) usleep(100);
}

TEST(dies_with_a_watched_process_that_is_killed) {
  Shared<std::atomic<int>> ready;
  Child watched(sleep_forever);
  Child child(dying_with(watched, *ready, sleep_forever));
  await_ready(*ready);
  const ProcessHandle process(child.pidfd());
  CHECK(!has_exited(process));
  watched.kill();
  CHECK_EQ(child.wait(), 1);  // not a group leader: it alone, by _exit
}

TEST(dies_also_when_the_main_thread_is_busy) {
  Shared<std::atomic<int>> ready;
  Child watched(sleep_forever);
  Child child(dying_with(watched, *ready, [] {
    for (volatile bool busy = true; busy;) continue;
  }));
  await_ready(*ready);
  watched.kill();
  CHECK_EQ(child.wait(), 1);
}

TEST(takes_its_process_group_along) {
  struct State {
    std::atomic<int> ready;
    std::atomic<pid_t> worker;
  };
  Shared<State> state;
  CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // so that the worker can be waited for here
  Child watched(sleep_forever);
  Child child([&] {
    setpgid(0, 0);
    const pid_t worker = fork();
    if (worker == 0) sleep_forever();
    state->worker.store(worker);
    dying_with(watched, state->ready, sleep_forever)();
  });
  await_ready(state->ready);
  watched.kill();
  CHECK_EQ(child.wait(), -SIGKILL);
  int status = 0;
  const pid_t worker = state->worker.load();
  CHECK_EQ(waitpid(worker, &status, 0), worker);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(lives_on_while_the_watched_process_does) {
  Shared<std::atomic<int>> ready;
  Child watched(sleep_forever);
  Child child(dying_with(watched, *ready, [] {}));
  CHECK_EQ(child.wait(), 0);
}

}  // namespace
}  // namespace fkat
