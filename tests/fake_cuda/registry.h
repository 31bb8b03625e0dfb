// Registry: what is page-locked. Called with the state's lock held.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "errors.h"
#include "pages.h"

namespace fake {

struct Registration {
  Registration(std::byte* b, std::size_t n) : begin(b), nbytes(n), pages(b, n) {}

  std::byte* begin;
  std::size_t nbytes;
  HeldPages pages;
  int copies_in_flight = 0;
};

class Registry {
 public:
  Result add(std::byte* begin, std::size_t nbytes);
  Result remove(std::byte* begin);
  void clear() { by_begin_.clear(); }

  // The registration that all of [begin, begin + nbytes) lies in, or none if none of it lies in
  // any; the result says if it is neither.
  Result find(const std::byte* begin, std::size_t nbytes,
              std::shared_ptr<Registration>& found) const;

  void set_limit(std::uint64_t nbytes) { limit_ = nbytes; }

  std::int64_t size() const { return static_cast<std::int64_t>(by_begin_.size()); }
  std::int64_t nbytes() const;
  std::size_t max_nbytes() const { return max_nbytes_; }

 private:
  using Map = std::map<std::byte*, std::shared_ptr<Registration>>;
  // The first that ends behind `begin`.
  Map::const_iterator first_behind(const std::byte* begin) const;

  Map by_begin_;
  std::uint64_t limit_ = UINT64_MAX;
  std::size_t max_nbytes_ = 0;
};

// "4096 bytes at 0x7f...": for violations.
std::string describe(const std::byte* begin, std::size_t nbytes);

// A violation, and false, unless the memory is mapped and its pages are those that are registered.
bool check_pages(const Registration& registration, std::byte* begin, std::size_t nbytes,
                 const std::string& when);

}  // namespace fake
