#include "pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; defined here because older headers lack it
#endif

namespace fake {
namespace {

std::byte* page_of(const std::byte* address) {
  const auto number = reinterpret_cast<std::uintptr_t>(address);
  return reinterpret_cast<std::byte*>(number - number % page_nbytes());
}

// Of the pages that [begin, begin + nbytes) touches; from the first page's beginning.
std::size_t num_pages(const std::byte* begin, std::size_t nbytes) {
  const std::size_t from_page = static_cast<std::size_t>(begin - page_of(begin)) + nbytes;
  return (from_page + page_nbytes() - 1) / page_nbytes();
}

// The numbers of the page frames, as in the kernel's Documentation/admin-guide/mm/pagemap.rst: bit
// 63 is "present", bits 0 to 54 are the number, or 0 for those who may not see it.
std::vector<std::uint64_t> frames_of(std::byte* begin, std::size_t nbytes) {
  static const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  std::vector<std::uint64_t> frames(num_pages(begin, nbytes));
  std::byte* const first = page_of(begin);
  madvise(first, frames.size() * page_nbytes(), MADV_POPULATE_READ);
  const auto offset = reinterpret_cast<std::uintptr_t>(first) / page_nbytes() * sizeof frames[0];
  const std::size_t size = frames.size() * sizeof frames[0];
  if (pread(pagemap, frames.data(), size, static_cast<off_t>(offset)) !=
      static_cast<ssize_t>(size)) {
    return {};
  }
  for (std::uint64_t& frame : frames) {
    frame = (frame >> 63) == 0 ? 0 : frame & ((std::uint64_t{1} << 55) - 1);
  }
  return frames;
}

}  // namespace

std::size_t page_nbytes() {
  static const auto nbytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return nbytes;
}

bool is_resident(const std::byte* begin, std::size_t nbytes) {
  std::vector<unsigned char> resident(num_pages(begin, nbytes));
  if (mincore(page_of(begin), resident.size() * page_nbytes(), resident.data()) != 0) return false;
  return std::all_of(resident.begin(), resident.end(), [](unsigned char r) { return r & 1; });
}

bool tells_pages_apart() {
  static std::byte here{1};  // a page that is certainly there
  const auto frames = frames_of(&here, 1);
  return !frames.empty() && frames[0] != 0;
}

// A pipe can hold references to pages, which keeps the kernel from moving them. Without that their
// numbers would say nothing.
HeldPages::HeldPages(std::byte* begin, std::size_t nbytes) : begin_(begin) {
  if (!tells_pages_apart() || pipe2(pipe_, O_CLOEXEC | O_NONBLOCK) != 0) return;
  fcntl(pipe_[1], F_SETPIPE_SZ, static_cast<int>(std::max<std::size_t>(nbytes, 4096)));
  iovec rest{begin, nbytes};
  while (rest.iov_len != 0) {
    const ssize_t held = vmsplice(pipe_[1], &rest, 1, SPLICE_F_NONBLOCK);
    if (held <= 0) return;
    rest.iov_base = static_cast<std::byte*>(rest.iov_base) + held;
    rest.iov_len -= static_cast<std::size_t>(held);
  }
  frames_ = frames_of(begin, nbytes);
}

HeldPages::~HeldPages() {
  for (const int end : pipe_) {
    if (end >= 0) close(end);
  }
}

bool HeldPages::are_behind(std::byte* begin, std::size_t nbytes) const {
  if (frames_.empty()) return true;
  const auto now = frames_of(begin, nbytes);
  const auto first = (page_of(begin) - begin_) / static_cast<std::ptrdiff_t>(page_nbytes());
  return std::equal(now.begin(), now.end(), frames_.begin() + first);
}

}  // namespace fake
