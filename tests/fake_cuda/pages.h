// What the kernel says of the pages behind addresses of this process.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fake {

std::size_t page_nbytes();

// Whether all of it is mapped, and each page has memory.
bool is_resident(const std::byte* begin, std::size_t nbytes);

// Whether this process may see the numbers of its page frames (root may).
bool tells_pages_apart();

// The pages behind a range, held as a driver holds them: the kernel cannot move them, but a hole
// can still be punched; then the address and whoever holds the page part silently.
class HeldPages {
 public:
  HeldPages(std::byte* begin, std::size_t nbytes);
  HeldPages(const HeldPages&) = delete;
  HeldPages& operator=(const HeldPages&) = delete;
  ~HeldPages();

  // Whether the addresses still lead to the pages held. True where nobody can tell.
  bool are_behind(std::byte* begin, std::size_t nbytes) const;

 private:
  std::byte* begin_;
  int pipe_[2] = {-1, -1};
  std::vector<std::uint64_t> frames_;  // empty if nobody can tell
};

}  // namespace fake
