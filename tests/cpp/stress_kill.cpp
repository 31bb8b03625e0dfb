// Two real processes over two mappings of one memfd, and SIGKILL at random moments.
//
// Whatever was published before the kill is whole, in order and delivered; the death is noticed;
// a producer never outlives its trainer. Not under ThreadSanitizer, which sees no second process.

#include <sys/prctl.h>
#include <time.h>

#include <random>

#include "child.h"
#include "ring_pair.h"
#include "shm/process.h"

namespace fkat {
namespace {

std::uint64_t nbytes_of(std::uint64_t position) {
  return 8 * (mix(position) % 3000);
}

// Publishes for ever, until it is told to stop or is killed.
void produce(const Ring& trainers) {
  const auto ring = Ring::attach(Segment::attach(trainers.segment().fd()), wake_fds_of(trainers));
  Producer producer(ring, 64 * MiB);
  Pass pass{};
  while (producer.await_pass(0, pass, kForever) == Turn::kWait) continue;
  for (std::uint64_t position = 0;; ++position) {
    Turn turn;
    while ((turn = producer.await_grant(pass, kForever)) == Turn::kWait) continue;
    if (turn != Turn::kGo) return;
    std::uint32_t slot = 0;
    const std::uint64_t nbytes = nbytes_of(position);
    while ((turn = producer.claim(pass, nbytes, slot, kForever)) == Turn::kWait) continue;
    if (turn != Turn::kGo) return;
    fill_words(producer.slot_data(slot), nbytes, position);
    producer.publish(pass, position, slot, nbytes);
  }
}

void sleep_us(unsigned us) {
  const timespec time{0, static_cast<long>(us) * 1000};
  nanosleep(&time, nullptr);
}

// The trainer's loop: returns how many microbatches came before `producer` died. Nothing but a ring
// or that death ends its sleep.
std::uint64_t consume(const std::shared_ptr<Ring>& ring, const ProcessHandle& producer,
                      std::minstd_rand& random) {
  Consumer consumer(ring, 0, 2, 2);
  consumer.begin_pass(0, 0);
  std::vector<Record> held;
  bool exited = false;
  for (std::uint64_t position = 0;;) {
    const auto record = consumer.try_acquire();
    if (!record) {
      // First the exit, then the ring: the other way round would lose what came in between.
      if (exited) return position;
      exited = consumer.wait(kForever, producer);
      continue;
    }
    CHECK_EQ(record->position, position);
    CHECK_EQ(record->bytes.size(), nbytes_of(position));
    check_words(record->bytes, position);
    ++position;
    if (random() % 4 == 0) held.push_back(*record);
    if (held.size() > random() % 4) {
      check_words(held.front().bytes, held.front().position);
      held.erase(held.begin());
    }
  }
}

TEST(everything_published_before_a_kill_is_delivered_whole) {
  std::minstd_rand random(1);
  std::uint64_t num_microbatches = 0;
  const long rounds = check::rounds(300);
  for (long round = 0; round < rounds; ++round) {
    const auto ring = Ring::create(static_cast<std::uint32_t>(2 + random() % 3), 2 * MiB);
    const unsigned delay_us = static_cast<unsigned>(random() % 3000);
    Child producer([&] { produce(*ring); });
    Child killer([&] {
      sleep_us(delay_us);
      producer.kill();
    });
    const std::uint64_t delivered = consume(ring, ProcessHandle(producer.pidfd()), random);
    CHECK_EQ(delivered, ring->producer_line().published_seq.load());
    CHECK_EQ(producer.wait(), -SIGKILL);
    num_microbatches += delivered;
  }
  std::printf("%ld kills, %llu microbatches checked\n", rounds,
              static_cast<unsigned long long>(num_microbatches));
  CHECK(num_microbatches > 0);
}

TEST(a_producer_does_not_outlive_its_trainer) {
  CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // an orphaned producer becomes our child
  Shared<std::atomic<pid_t>> producer_pid;
  std::minstd_rand random(2);
  for (long round = 0; round < check::rounds(300); ++round) {
    producer_pid->store(0);
    Child trainer([&] {
      const auto ring = Ring::create(2, 2 * MiB);
      const int own_pidfd = open_pidfd(getpid());
      Child producer([&] {
        die_with(own_pidfd);
        producer_pid->store(getpid());
        produce(*ring);
      });
      consume(ring, ProcessHandle(producer.pidfd()), random);
    });
    while (producer_pid->load() == 0) sleep_us(50);
    sleep_us(static_cast<unsigned>(random() % 3000));
    trainer.kill();
    CHECK_EQ(trainer.wait(), -SIGKILL);
    // Hangs here if the producer lives on, or finds it if somebody else had to end it.
    int status = 0;
    CHECK_EQ(waitpid(producer_pid->load(), &status, 0), producer_pid->load());
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1);
  }
}

}  // namespace
}  // namespace fkat
