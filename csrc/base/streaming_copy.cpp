#include "base/streaming_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace fkat {

#ifdef __SSE2__

void streaming_copy(std::byte* to, const std::byte* from, std::size_t nbytes) {
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kAhead = 1024;
  // Whole lines only: a part of one would be read after all.
  const std::size_t before = std::min(-reinterpret_cast<std::uintptr_t>(to) % kLine, nbytes);
  std::memcpy(to, from, before);
  std::size_t at = before;
  for (; nbytes - at >= kLine; at += kLine) {
    const auto* source = reinterpret_cast<const __m128i*>(from + at);
    auto* line = reinterpret_cast<__m128i*>(to + at);
    _mm_prefetch(from + std::min(at + kAhead, nbytes), _MM_HINT_NTA);
    const __m128i words[] = {_mm_loadu_si128(source), _mm_loadu_si128(source + 1),
                             _mm_loadu_si128(source + 2), _mm_loadu_si128(source + 3)};
    for (int i = 0; i < 4; ++i) _mm_stream_si128(line + i, words[i]);
  }
  // A release-store alone orders no streaming store (Intel SDM, volume 1, 10.4.6.2).
  _mm_sfence();
  std::memcpy(to + at, from + at, nbytes - at);
}

#else

void streaming_copy(std::byte* to, const std::byte* from, std::size_t nbytes) {
  std::memcpy(to, from, nbytes);
}

#endif

}  // namespace fkat
