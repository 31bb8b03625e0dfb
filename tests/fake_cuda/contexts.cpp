#include "contexts.h"

#include "report.h"

namespace fake {

Context* Contexts::retain(int device) {
  const auto index = static_cast<std::size_t>(device);
  if (contexts_.size() <= index) contexts_.resize(index + 1);
  ++contexts_[index].num_retained;
  return &contexts_[index];
}

Result Contexts::release(int device) {
  const auto index = static_cast<std::size_t>(device);
  if (index >= contexts_.size() || contexts_[index].num_retained == 0) {
    violation("released a context that is not retained");
    return kInvalidContext;
  }
  --contexts_[index].num_retained;
  return kSuccess;
}

void Contexts::clear() {
  for (Context& context : contexts_) context.num_retained = 0;
}

std::int64_t Contexts::num_retained() const {
  std::int64_t sum = 0;
  for (const Context& context : contexts_) sum += context.num_retained;
  return sum;
}

bool Contexts::is_retained(const Context* context) const {
  for (const Context& known : contexts_) {
    if (&known == context) return known.num_retained != 0;
  }
  return false;
}

std::vector<Context*>& Contexts::stack() {
  thread_local std::vector<Context*> stack;
  return stack;
}

}  // namespace fake
