#include "report.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <iterator>

namespace fake {
namespace {

constexpr unsigned kNumTexts = 16;

// Counters that nobody orders anything by: relaxed throughout, but for the texts.
struct Page {
  std::atomic<std::int64_t> calls[std::size(kEntryPoints)];
  std::atomic<std::int64_t> num_violations;
  struct {
    std::atomic<bool> is_complete;
    char text[240];
  } violations[kNumTexts];
};

Page& page() {
  static Page* const shared = static_cast<Page*>(
      mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return *shared;
}

const pid_t owner = (page(), getpid());  // both when the library is loaded, before any fork

std::size_t index_of(const std::string& name) {
  std::size_t index = 0;
  while (index < std::size(kEntryPoints) && kEntryPoints[index] != name) ++index;
  return index;
}

}  // namespace

bool is_entry_point(const std::string& name) {
  return index_of(name) < std::size(kEntryPoints);
}

bool is_own_process() {
  return getpid() == owner;
}

void count_call(const char* entry_point) {
  page().calls[index_of(entry_point)].fetch_add(1, std::memory_order_relaxed);
}

std::int64_t num_calls(const std::string& entry_point) {
  return page().calls[index_of(entry_point)].load(std::memory_order_relaxed);
}

void violation(const std::string& text) {
  const auto index = page().num_violations.fetch_add(1, std::memory_order_relaxed);
  if (index >= kNumTexts) return;
  auto& entry = page().violations[index];
  const std::string whole = "process " + std::to_string(getpid()) + ": " + text;
  std::strncpy(entry.text, whole.c_str(), sizeof entry.text - 1);
  entry.is_complete.store(true, std::memory_order_release);  // SYNC POINT: violation_text
}

std::int64_t num_violations() {
  return page().num_violations.load(std::memory_order_relaxed);
}

const char* violation_text(unsigned index) {
  if (index >= kNumTexts) return "";
  const auto& entry = page().violations[index];
  return entry.is_complete.load(std::memory_order_acquire) ? entry.text : "";  // violation
}

void forget_report() {
  for (auto& calls : page().calls) calls.store(0, std::memory_order_relaxed);
  for (auto& entry : page().violations) entry.is_complete.store(false, std::memory_order_relaxed);
  page().num_violations.store(0, std::memory_order_relaxed);
}

}  // namespace fake
