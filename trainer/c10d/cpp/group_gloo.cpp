#include "bridge.h"

#include <cstdlib>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

// The object is allocated here and filled by libtorch_cpu.so, so both sides must
// agree on its size. Measured inside libtorch 2.13.0 (the operand of operator new in
// its own make_intrusive<ProcessGroupGloo>): measure again for another version.
static_assert(
    sizeof(c10d::ProcessGroupGloo) == 0x1e8,
    "ProcessGroupGloo is laid out differently in this libtorch: 2.13.0 is needed");

extern "C" char* c10d_gloo_new(
    c10d_store* store, int rank, int size, int64_t timeout_ms, const char* host,
    c10d_group** out) {
  return bridge::guarded([&] {
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>("gloo", store->inner);
    using Gloo = c10d::ProcessGroupGloo;
    auto options = Gloo::Options::create(std::chrono::milliseconds(timeout_ms));
    // As torch.distributed does, but never by this machine's name, which many systems
    // resolve to loopback.
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    options->devices.push_back(
        interface != nullptr && *interface != '\0'
            ? Gloo::createDeviceForInterface(interface)
            : Gloo::createDeviceForHostname(host));
    *out = new c10d_group{c10::make_intrusive<c10d::ProcessGroupGloo>(
        prefixed, rank, size, options)};
  });
}
