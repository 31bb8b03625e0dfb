// streaming_copy copies what memcpy would: nothing less, nothing beside it.

#include "base/streaming_copy.h"

#include <cstring>
#include <vector>

#include "check.h"

namespace fkat {
namespace {

constexpr std::byte kUntouched{0xa5};

void check_copy(std::size_t nbytes, std::size_t to_offset, std::size_t from_offset) {
  std::vector<std::byte> from(nbytes + from_offset + 1), to(nbytes + to_offset + 64, kUntouched);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 7 + i / 251);
  auto expected = to;
  std::memcpy(expected.data() + to_offset, from.data() + from_offset, nbytes);
  streaming_copy(to.data() + to_offset, from.data() + from_offset, nbytes);
  CHECK(to == expected);
}

TEST(every_size_up_to_some_lines_at_every_place_of_a_line) {
  for (std::size_t nbytes = 0; nbytes < 200; ++nbytes) {
    for (std::size_t offset = 0; offset < 64; ++offset) check_copy(nbytes, offset, 3 * offset % 64);
  }
}

TEST(what_is_large_and_ends_within_a_line) {
  check_copy(kStreamedNbytes, 0, 0);
  check_copy(kStreamedNbytes + 13, 1, 0);
  check_copy(3 * kStreamedNbytes - 1, 0, 5);
}

}  // namespace
}  // namespace fkat
