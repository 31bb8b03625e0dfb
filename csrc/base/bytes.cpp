#include "base/bytes.h"

#include <cstdio>

namespace fkat {

std::string format_nbytes(std::uint64_t nbytes) {
  if (nbytes < 10 * KiB) return std::to_string(nbytes) + " bytes";
  const char* unit = nbytes < MiB ? "KiB" : nbytes < GiB ? "MiB" : "GiB";
  const double scale = nbytes < MiB ? KiB : nbytes < GiB ? MiB : GiB;
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", static_cast<double>(nbytes) / scale, unit);
  return text;
}

}  // namespace fkat
