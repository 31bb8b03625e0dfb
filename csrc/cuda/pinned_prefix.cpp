#include "cuda/pinned_prefix.h"

#include <sys/mman.h>

#include <algorithm>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14; defined here because older headers lack it
#endif

namespace fkat::cuda {

Result PinnedPrefix::grow(const Driver& driver, std::uint64_t nbytes,
                          std::uint64_t max_registration) {
  if (nbytes <= nbytes_) return kSuccess;
  // Maps the pages here at once; the driver would fault them one by one. Older kernels: it will.
  madvise(begin_ + nbytes_, nbytes - nbytes_, MADV_POPULATE_WRITE);
  while (nbytes_ < nbytes) {
    const std::uint64_t size = std::min(nbytes - nbytes_, max_registration);
    const Result result = driver.host_register(begin_ + nbytes_, size, kHostRegisterPortable);
    if (result != kSuccess) {
      unpin(driver);
      return result;
    }
    nbytes_ += size;
    ends_.push_back(nbytes_);
  }
  return kSuccess;
}

void PinnedPrefix::unpin(const Driver& driver) {
  std::uint64_t begin = 0;
  for (const std::uint64_t end : ends_) {
    driver.host_unregister(begin_ + begin);
    begin = end;
  }
  ends_.clear();
  nbytes_ = 0;
}

void PinnedPrefix::for_each_piece(
    std::span<const std::byte> bytes,
    const std::function<void(std::span<const std::byte>)>& piece) const {
  std::uint64_t at = static_cast<std::uint64_t>(bytes.data() - begin_);
  for (const std::uint64_t end : ends_) {
    if (bytes.empty()) return;
    if (end <= at) continue;
    const auto part = bytes.first(std::min<std::uint64_t>(end - at, bytes.size()));
    piece(part);
    bytes = bytes.subspan(part.size());
    at += part.size();
  }
  if (!bytes.empty()) piece(bytes);
}

}  // namespace fkat::cuda
