#include "copies.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "report.h"

namespace fake {
namespace {

// Differs for bytes that differ, but for a chance of 2^-64: FNV-1a (RFC 9923), of words.
std::uint64_t checksum(const std::byte* data, std::size_t nbytes) {
  std::uint64_t sum = 0xcbf29ce484222325;
  for (std::size_t at = 0; at < nbytes; at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + at, std::min(sizeof word, nbytes - at));
    sum = (sum ^ word) * 0x100000001b3;
  }
  return sum;
}

// What the copy engine does: reads the source now, whatever has become of it.
Result execute_copy(const Registration* registration, std::byte* destination, std::byte* source,
                    std::size_t nbytes, std::uint64_t sum) {
  if (registration != nullptr && !check_pages(*registration, source, nbytes, "copied pages")) {
    return kIllegalAddress;
  }
  std::memcpy(destination, source, nbytes);
  if (checksum(destination, nbytes) != sum) {
    violation("the source of a copy changed before it was executed: " + describe(source, nbytes));
  }
  return kSuccess;
}

}  // namespace

Result enqueue_copy(State& state, Stream& stream, std::byte* destination, std::byte* source,
                    std::size_t nbytes) {
  if (nbytes == 0) return kSuccess;
  if (destination == nullptr || source == nullptr) return kInvalidValue;
  std::shared_ptr<Registration> registration;
  const Result result = state.registry.find(source, nbytes, registration);
  if (result != kSuccess) return result;

  Work work;
  if (registration == nullptr && !state.is_pageable_async) {
    work.run = [destination, staged = std::vector(source, source + nbytes)] {
      std::memcpy(destination, staged.data(), staged.size());
      return kSuccess;
    };
  } else {
    const std::uint64_t sum = checksum(source, nbytes);
    work.run = [=] { return execute_copy(registration.get(), destination, source, nbytes, sum); };
  }
  work.injected_fault = [&state] { return state.faults.take("copy"); };
  if (registration != nullptr) ++registration->copies_in_flight;
  ++state.num_copies_in_flight;
  work.end = [&state, registration] {
    if (registration != nullptr) --registration->copies_in_flight;
    --state.num_copies_in_flight;
  };
  state.engine.enqueue(stream, std::move(work));
  ++state.num_copies;
  state.copied_nbytes += static_cast<std::int64_t>(nbytes);
  state.max_copy_nbytes = std::max(state.max_copy_nbytes, static_cast<std::int64_t>(nbytes));
  return kSuccess;
}

}  // namespace fake
