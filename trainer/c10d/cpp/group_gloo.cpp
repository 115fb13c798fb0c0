#include "bridge.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

// The object is allocated here and filled by libtorch_cpu.so, so both sides must
// agree on its size. Measured inside libtorch 2.13.0 (the operand of operator new in
// its own make_intrusive<ProcessGroupGloo>): measure again for another version.
static_assert(
    sizeof(c10d::ProcessGroupGloo) == 0x1e8,
    "ProcessGroupGloo is laid out differently in this libtorch: 2.13.0 is needed");

extern "C" char* c10d_gloo_new(
    c10d_store* store, int rank, int size, int64_t timeout_ms, c10d_group** out) {
  return bridge::guarded([&] {
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>("gloo", store->inner);
    auto options = c10d::ProcessGroupGloo::Options::create_default(
        std::chrono::milliseconds(timeout_ms));
    *out = new c10d_group{c10::make_intrusive<c10d::ProcessGroupGloo>(
        prefixed, rank, size, options)};
  });
}
