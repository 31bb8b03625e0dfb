// The mark of a microbatch (python's _source/note.py): bytes in front of the structure of its
// record, written by the producer and read by the trainer.
//
//     | MarkHeader: 32 bytes | inner: inner_nbytes | structure, or a pickled event
//
// An event has no place of its own: kEvent for a shard.

#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace fkat {

struct MarkHeader {
  std::int64_t shard;
  std::int64_t offset;
  std::uint32_t digest;
  std::uint32_t before;
  std::uint32_t inner_nbytes;
  std::uint8_t ends;
  std::uint8_t unused[3];
};
static_assert(sizeof(MarkHeader) == 32);

inline constexpr std::int64_t kEvent = -1;

// What stands in front of a structure, taken from it. Throws CorruptSegment.
struct MarkView {
  explicit MarkView(std::span<const std::byte> text);

  bool is_event() const { return header.shard == kEvent; }

  MarkHeader header;
  std::string_view inner;
  std::span<const std::byte> rest;
};

}  // namespace fkat
