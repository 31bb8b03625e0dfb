// The driver's loading and words, and the context that is retained, made current, and given back.

#include "base/error.h"
#include "child.h"
#include "fake_device.h"

namespace fkat::cuda {
namespace {

using Current = DeviceContext::Current;

std::int64_t num_calls() {
  std::int64_t sum = 0;
#define FKAT_CUDA_COUNT(member, symbol, parameters) sum += fake_cuda_count(#symbol);
  FKAT_CUDA_ENTRY_POINTS(FKAT_CUDA_COUNT)
#undef FKAT_CUDA_COUNT
  return sum;
}

TEST(every_entry_point_is_one_of_the_fake_s) {
#define FKAT_CUDA_CHECK_KNOWN(member, symbol, parameters) CHECK(fake_cuda_count(#symbol) >= 0);
  FKAT_CUDA_ENTRY_POINTS(FKAT_CUDA_CHECK_KNOWN)
#undef FKAT_CUDA_CHECK_KNOWN
}

TEST(a_driver_that_is_not_there_is_a_device_error) {
  CHECK_THROWS(DeviceError, Driver::load("/nowhere/libcuda.so.1"),
               "no CUDA driver can be loaded: /nowhere/libcuda.so.1: cannot open");
}

TEST(a_library_without_an_entry_point_is_called_too_old) {
  CHECK_THROWS(DeviceError, Driver::load("libm.so.6"),
               "libm.so.6 has no cuGetErrorName: the CUDA driver is too old");
}

TEST(loading_calls_nothing) {
  fake_cuda_reset();
  Driver::load(FAKE_CUDA);
  CHECK_EQ(num_calls(), 0);
}

TEST(errors_carry_the_driver_s_own_words) {
  const auto driver = Driver::load(FAKE_CUDA);
  CHECK_EQ(driver->describe(1), "CUDA_ERROR_INVALID_VALUE (invalid argument)");
  CHECK_EQ(driver->describe(12345), "CUDA error 12345");
  driver->check(kSuccess, "nothing");
  CHECK_THROWS(DeviceError, driver->check(2, "slot 3"),
               "slot 3: CUDA_ERROR_OUT_OF_MEMORY (out of memory)");
  CHECK_THROWS(DeviceError, driver->check(kNotReady, "slot 3"), "CUDA_ERROR_NOT_READY");
}

TEST(a_context_is_retained_as_long_as_it_is_held) {
  FakeDevice device;
  CHECK_EQ(fake_cuda_count("contexts"), 1);
  {
    const DeviceContext second(device.driver, 0);
    CHECK_EQ(fake_cuda_count("contexts"), 2);
  }
  CHECK_EQ(fake_cuda_count("contexts"), 1);
  device.context.reset();
  CHECK_EQ(fake_cuda_count("contexts"), 0);
}

TEST(a_device_that_does_not_exist_is_named) {
  const FakeDevice device;
  CHECK_THROWS(DeviceError, DeviceContext(device.driver, 1),
               "CUDA device 1: CUDA_ERROR_INVALID_DEVICE (invalid device ordinal)");
  CHECK_THROWS(DeviceError, DeviceContext(device.driver, -1), "CUDA device -1: ");
  fake_cuda_set_num_devices(2);
  CHECK_EQ(DeviceContext(device.driver, 1).pci_bus_id(), "0000:3c:00.0");
}

TEST(a_busy_device_is_named_and_nothing_is_released) {
  const FakeDevice device;
  fake_cuda_fail("cuDevicePrimaryCtxRetain", 0, 1, 46);
  CHECK_THROWS(DeviceError, DeviceContext(device.driver, 0),
               "a context on CUDA device 0: CUDA_ERROR_DEVICE_UNAVAILABLE");
  CHECK_EQ(fake_cuda_count("cuDevicePrimaryCtxRelease_v2"), 0);
}

TEST(the_pci_address_is_written_as_the_kernel_writes_it) {
  const FakeDevice device;
  CHECK_EQ(device.context->pci_bus_id(), "0000:3b:00.0");  // CUDA says 0000:3B:00.0
}

TEST(a_context_is_current_in_its_scope_only) {
  const FakeDevice device;
  {
    const Current outer(*device.context);
    {
      const Current inner(*device.context);
      CHECK_EQ(fake_cuda_context_depth(), 2);
    }
    CHECK_EQ(fake_cuda_context_depth(), 1);
  }
  CHECK_EQ(fake_cuda_context_depth(), 0);
}

TEST(a_context_that_cannot_be_made_current_is_not_popped) {
  const FakeDevice device;
  fake_cuda_fail("cuCtxPushCurrent_v2", 0, 1, 4);
  CHECK_THROWS(DeviceError, Current(*device.context),
               "making the CUDA context current: CUDA_ERROR_DEINITIALIZED");
  CHECK_EQ(fake_cuda_count("cuCtxPopCurrent_v2"), 0);
}

TEST(a_forked_child_calls_nothing) {
  FakeDevice device;
  const std::int64_t before = num_calls();
  Child child([&] {
    CHECK(!device.context->is_own());
    CHECK_THROWS(DeviceError, Current(*device.context), "CUDA does not survive fork");
    CHECK_THROWS(DeviceError, device.context->pci_bus_id(), "CUDA does not survive fork");
    device.context.reset();
  });
  CHECK_EQ(child.wait(), 0);
  CHECK_EQ(num_calls(), before);
  CHECK(device.context->is_own());
}

}  // namespace
}  // namespace fkat::cuda
