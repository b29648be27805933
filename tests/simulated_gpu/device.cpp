// What torch's C++ side asks of CUDA, for devices without streams of their own, of which a process uses one (LOCAL_RANK, or the first).
// torch is built for CPUs alone where this is used.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdlib>

namespace at {
namespace {

constexpr auto kind = c10::DeviceType::CUDA;
constexpr c10::DeviceIndex count = 8;

c10::DeviceIndex own() {
  const char* rank = std::getenv("LOCAL_RANK");
  return rank ? static_cast<c10::DeviceIndex>(std::atoi(rank)) : 0;
}

const c10::Device device{kind, own()};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kind; }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return count; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

struct CUDAHooks final : CUDAHooksInterface {  // torch looks it up by this name
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return count; }
  int getNumGPUs() const override { return count; }
  DeviceIndex current_device() const override { return device.index(); }
  DeviceIndex getCurrentDevice() const override { return device.index(); }
  void setCurrentDevice(DeviceIndex) const override {}
  bool isPinnedPtr(const void*) const override { return false; }
  void deviceSynchronize(DeviceIndex) const override {}
};

}  // namespace

REGISTER_CUDA_HOOKS(CUDAHooks)

namespace detail {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
}  // namespace at
