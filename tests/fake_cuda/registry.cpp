#include "registry.h"

#include <algorithm>
#include <sstream>

#include "report.h"

namespace fake {

std::string describe(const std::byte* begin, std::size_t nbytes) {
  std::ostringstream text;
  text << nbytes << " bytes at " << static_cast<const void*>(begin);
  return text.str();
}

bool check_pages(const Registration& registration, std::byte* begin, std::size_t nbytes,
                 const std::string& when) {
  if (!is_resident(begin, nbytes)) {
    violation(when + " that have no memory any more: " + describe(begin, nbytes));
    return false;
  }
  if (!registration.pages.are_behind(begin, nbytes)) {
    violation(when + " whose pages were replaced: " + describe(begin, nbytes));
    return false;
  }
  return true;
}

Registry::Map::const_iterator Registry::first_behind(const std::byte* begin) const {
  return std::find_if(by_begin_.begin(), by_begin_.end(), [begin](const auto& entry) {
    return entry.first + entry.second->nbytes > begin;
  });
}

Result Registry::add(std::byte* begin, std::size_t nbytes) {
  const auto number = reinterpret_cast<std::uintptr_t>(begin);
  if (nbytes == 0 || number % page_nbytes() != 0 || nbytes % page_nbytes() != 0) {
    violation("registered what are not whole pages: " + describe(begin, nbytes));
    return kInvalidValue;
  }
  const auto next = first_behind(begin);
  if (next != by_begin_.end() && next->first < begin + nbytes) {
    violation("registered what is registered already: " + describe(begin, nbytes));
    return kAlreadyRegistered;
  }
  if (!is_resident(begin, nbytes)) {
    violation("registered what has no memory yet: " + describe(begin, nbytes));
    return kInvalidValue;
  }
  if (static_cast<std::uint64_t>(this->nbytes()) + nbytes > limit_) return kOutOfMemory;
  by_begin_.emplace(begin, std::make_shared<Registration>(begin, nbytes));
  max_nbytes_ = std::max(max_nbytes_, nbytes);
  return kSuccess;
}

Result Registry::remove(std::byte* begin) {
  const auto found = by_begin_.find(begin);
  if (found == by_begin_.end()) {
    violation("unregistered what is not registered: " + describe(begin, 0));
    return kNotRegistered;
  }
  const Registration& registration = *found->second;
  check_pages(registration, begin, registration.nbytes, "unregistered pages");
  if (registration.copies_in_flight != 0) {
    violation("unregistered while a copy of it is in flight: " +
              describe(begin, registration.nbytes));
  }
  by_begin_.erase(found);
  return kSuccess;
}

Result Registry::find(const std::byte* begin, std::size_t nbytes,
                      std::shared_ptr<Registration>& found) const {
  const auto next = first_behind(begin);
  if (next == by_begin_.end() || next->first >= begin + nbytes) return kSuccess;
  const Registration& registration = *next->second;
  if (next->first > begin || begin + nbytes > registration.begin + registration.nbytes) {
    violation("copied across the border of a registration: " + describe(begin, nbytes));
    return kInvalidValue;
  }
  found = next->second;
  return kSuccess;
}

std::int64_t Registry::nbytes() const {
  std::int64_t sum = 0;
  for (const auto& entry : by_begin_) sum += static_cast<std::int64_t>(entry.second->nbytes);
  return sum;
}

}  // namespace fake
