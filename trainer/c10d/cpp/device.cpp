// Streams, events, attention kernels and memory of a GPU through libtorch's
// device-independent interface, which needs no header of CUDA. Without a GPU, or
// without CUDA in libtorch, every function but those of the attention, which only
// set what is taken later, returns libtorch's message.
#include "device.h"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace {
c10::Device gpu(int index) {
  return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)};
}

c10::impl::VirtualGuardImpl guard() {
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA);
}
} // namespace

using bridge::guarded;

extern "C" {
char* c10d_own_stream(int index) {
  return guarded([&] {
    const auto impl = guard();
    impl.setDevice(gpu(index));
    impl.exchangeStream(impl.getStreamFromGlobalPool(gpu(index)));
  });
}

char* c10d_event_new(int index, c10d_event** out) {
  return guarded([&] {
    auto event = std::make_unique<c10d_event>();
    event->inner.record(guard().getStream(gpu(index)));
    *out = event.release();
  });
}

char* c10d_event_block(c10d_event* event, int index) {
  return guarded([&] { event->inner.block(guard().getStream(gpu(index))); });
}

void c10d_event_drop(c10d_event* event) {
  c10d_free(guarded([&] { delete event; }));
}

char* c10d_used_on_stream(at::Tensor* tensor) {
  return guarded([&] {
    if (!tensor->device().is_cuda()) {
      return;
    }
    const auto impl = guard();
    const auto stream = impl.getStream(tensor->device());
    impl.recordDataPtrOnStream(tensor->storage().data_ptr(), stream);
  });
}

char* c10d_choose_attention() {
  return guarded([] {
    auto& context = at::globalContext();
    context.setSDPUseFlash(true);
    context.setSDPUseMemEfficient(true);
    context.setSDPUseCuDNN(false);
    context.setSDPUseMath(false);
  });
}

char* c10d_attention(bool out[4]) {
  return guarded([&] {
    const auto& context = at::globalContext();
    out[0] = context.userEnabledFlashSDP();
    out[1] = context.userEnabledMemEfficientSDP();
    out[2] = context.userEnabledCuDNNSDP();
    out[3] = context.userEnabledMathSDP();
  });
}

char* c10d_device_memory(int index, int64_t out[3]) {
  return guarded([&] {
    auto* allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(index));
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    out[0] = stats.allocated_bytes[all].current;
    out[1] = stats.allocated_bytes[all].peak;
    out[2] = stats.reserved_bytes[all].peak;
  });
}
}
