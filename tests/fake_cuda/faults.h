// Faults: which next calls fail, and with what. Called with the state's lock held.

#pragma once

#include <list>
#include <string>

#include "errors.h"

namespace fake {

class Faults {
 public:
  void add(const std::string& name, unsigned after, int times, Result code) {
    faults_.push_back({name, after, times, code});
  }

  void clear() { faults_.clear(); }

  // Counts a call of that name; what it must fail with.
  Result take(const std::string& name) {
    Result code = kSuccess;
    for (Fault& fault : faults_) {
      if (fault.name != name) continue;
      if (fault.after != 0) {
        --fault.after;
      } else if (fault.times != 0 && code == kSuccess) {
        if (fault.times > 0) --fault.times;
        code = fault.code;
      }
    }
    return code;
  }

 private:
  struct Fault {
    std::string name;
    unsigned after;
    int times;  // -1: always
    Result code;
  };

  std::list<Fault> faults_;
};

}  // namespace fake
