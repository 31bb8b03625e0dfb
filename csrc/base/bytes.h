// Arithmetic on sizes: rounding, and products that say when they overflow.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace fkat {

inline constexpr std::uint64_t KiB = 1024;
inline constexpr std::uint64_t MiB = 1024 * KiB;
inline constexpr std::uint64_t GiB = 1024 * MiB;

// The next multiple of `alignment` (a power of two). The caller knows that value + alignment fits.
constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

inline std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? std::nullopt : std::optional(sum);
}

inline std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product;
  return __builtin_mul_overflow(a, b, &product) ? std::nullopt : std::optional(product);
}

// "4096 bytes", "16.0 KiB", "1.5 GiB": for error messages.
std::string format_nbytes(std::uint64_t nbytes);

}  // namespace fkat
