#include "bridge.h"

#include <cstdlib>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

extern "C" char* c10d_nccl_new(
    c10d_store* store, int rank, int size, int64_t timeout_ms, c10d_group** out) {
  return bridge::guarded([&] {
    // wait() must block until the collective is done or timed out, and a failure must
    // come back as an error: by default a watchdog thread ends the whole process.
    setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
    setenv("TORCH_NCCL_ENABLE_MONITORING", "0", /*overwrite=*/0);
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>("nccl", store->inner);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    *out = new c10d_group{c10::make_intrusive<c10d::ProcessGroupNCCL>(
        prefixed, rank, size, options)};
  });
}
