// Repeats: when a structure has come so often in a row that it pays to learn it.
//
// The first one is learnt when it comes for the second time, the next one after two repeats, then
// four, up to 64. What repeats by chance, such as a label of two values, would else be learnt again
// and again, which costs several times what it saves. What could not be learnt is tried again as
// often.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fkat {

class Repeats {
 public:
  // Whether to learn it now. Called for each that is not known, one after another.
  bool is_due(std::string_view structure);

 private:
  // What is larger may be texts, which vary: each would be copied to be compared with the next.
  static constexpr std::size_t kMaxNbytes = 64 << 10;
  static constexpr std::uint64_t kMaxPatience = 64;

  std::string last_;
  std::uint64_t num_repeats_ = 0;  // of that, in a row
  std::uint64_t patience_ = 1;     // repeats, before the next one is due
};

}  // namespace fkat
