#include "cuda/stager.h"

#include "base/error.h"

namespace fkat::cuda {

using Current = DeviceContext::Current;

Transfer::Transfer(std::shared_ptr<const DeviceContext> context, std::shared_ptr<EventPool> events,
                   std::string what)
    : context_(std::move(context)),
      events_(std::move(events)),
      what_(std::move(what)),
      event_(events_->take()) {}

Transfer::~Transfer() {
  events_->give_back(event_);
}

void Transfer::make_wait(Stream stream) const {
  const Driver& driver = context_->driver();
  if (result_ != kNotReady) {
    driver.check(result_, what_);
    return;
  }
  const Current current(*context_);
  driver.check(driver.stream_wait_event(stream, event_, 0), what_);
}

Stager::Stager(std::shared_ptr<const DeviceContext> context)
    : context_(std::move(context)), events_(std::make_shared<EventPool>(context_)) {}

std::shared_ptr<Transfer> Stager::copy(std::span<const Bytes> pieces, DevicePtr destination,
                                       Stream stream, std::shared_ptr<const void> owner,
                                       std::string what) {
  const Current current(*context_);
  const Driver& driver = context_->driver();
  const std::shared_ptr<Transfer> transfer(new Transfer(context_, events_, std::move(what)));
  Result result = kSuccess;
  for (const Bytes piece : pieces) {
    result = driver.copy_to_device_async(destination, piece.data(), piece.size(), stream);
    if (result != kSuccess) break;
    destination += piece.size();
  }
  const Result recorded = driver.event_record(transfer->event_, stream);
  if (recorded == kSuccess) {
    transfer->owner_ = std::move(owner);
    in_flight_.push_back(transfer);
  } else {
    // Without an event the stream itself says when nothing reads the source any more.
    if (driver.stream_synchronize(stream) != kSuccess) lost_.push_back(std::move(owner));
    if (result == kSuccess) result = recorded;
  }
  driver.check(result, transfer->what_);
  return transfer;
}

// The oldest copy has ended, well or not.
void Stager::retire(Result result) {
  const std::shared_ptr<Transfer> transfer = std::move(in_flight_.front());
  in_flight_.pop_front();
  transfer->result_ = result;
  if (result != kSuccess) lost_.push_back(std::move(transfer->owner_));
  transfer->owner_.reset();
  if (result == kSuccess) return;
  // CUDA tells the failure of a kernel at whatever is called next.
  throw DeviceError(transfer->what_ + ": " + context_->driver().describe(result) +
                    "; it may be the failure of a kernel that was queued before the copy");
}

void Stager::poll() {
  context_->require_own();
  if (in_flight_.empty()) return;
  const Current current(*context_);
  while (!in_flight_.empty()) {
    const Result result = context_->driver().event_query(in_flight_.front()->event_);
    if (result == kNotReady) return;
    retire(result);
  }
}

void Stager::await_oldest() {
  const Current current(*context_);
  retire(context_->driver().event_synchronize(in_flight_.front()->event_));
}

void Stager::synchronize() {
  while (!in_flight_.empty()) await_oldest();
}

void Stager::drain() {
  while (!in_flight_.empty()) {
    const std::size_t before = in_flight_.size();
    try {
      await_oldest();
    } catch (const DeviceError&) {
      if (in_flight_.size() != before) continue;  // that copy has failed; nobody is left to be told
      for (const auto& transfer : in_flight_) lost_.push_back(std::move(transfer->owner_));
      in_flight_.clear();
    }
  }
}

Stager::~Stager() {
  // In a forked child the copies are the parent's: it releases what they read.
  if (context_->is_own()) drain();
}

}  // namespace fkat::cuda
