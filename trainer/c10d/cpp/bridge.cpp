#include "bridge.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

namespace bridge {
char* message(const char* text) noexcept {
  const size_t bytes = std::strlen(text) + 1;
  auto* copy = static_cast<char*>(std::malloc(bytes));
  if (copy == nullptr) {
    std::abort(); // Out of memory while reporting an error: nothing left to say.
  }
  std::memcpy(copy, text, bytes);
  return copy;
}

namespace {
// libtorch logs every lost connection with a stack trace. The bridge reports the
// same failure as an error, so only fatal lines are kept unless the user asks.
void init_logging_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);
    c10::initLogging();
  });
}

void finish(const c10::intrusive_ptr<c10d::Work>& work) {
  TORCH_CHECK(work->wait(), "the collective did not complete");
}

c10d::ReduceOp reduce_op(int op) {
  switch (op) {
    case 0:
      return c10d::ReduceOp::SUM;
    case 1:
      return c10d::ReduceOp::PRODUCT;
    case 2:
      return c10d::ReduceOp::MIN;
    case 3:
      return c10d::ReduceOp::MAX;
    default:
      TORCH_CHECK(false, "unknown reduce op ", op);
  }
}
} // namespace
} // namespace bridge

using bridge::guarded;

extern "C" {
void c10d_free(char* text) {
  std::free(text);
}

char* c10d_store_new(
    const char* host,
    uint16_t port,
    int is_server,
    int64_t timeout_ms,
    c10d_store** out) {
  return guarded([&] {
    bridge::init_logging_once();
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server != 0;
    options.waitWorkers = false; // The caller's own roll call names who is missing.
    options.timeout = std::chrono::milliseconds(timeout_ms);
    *out = new c10d_store{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

void c10d_store_drop(c10d_store* store) {
  c10d_free(guarded([&] { delete store; }));
}

uint16_t c10d_store_port(const c10d_store* store) {
  return store->inner->getPort();
}

char* c10d_store_set(c10d_store* store, const char* key, const char* value) {
  return guarded([&] {
    store->inner->set(key, std::vector<uint8_t>(value, value + std::strlen(value)));
  });
}

char* c10d_store_get(c10d_store* store, const char* key, char** out) {
  return guarded([&] {
    if (!store->inner->check({key})) {
      return;
    }
    const auto bytes = store->inner->get(key);
    *out = bridge::message(std::string(bytes.begin(), bytes.end()).c_str());
  });
}

void c10d_group_drop(c10d_group* group) {
  c10d_free(guarded([&] { delete group; }));
}

char* c10d_all_reduce(c10d_group* group, at::Tensor* tensor, int op) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = bridge::reduce_op(op);
    bridge::finish(group->inner->allreduce(tensors, options));
  });
}

char* c10d_broadcast(c10d_group* group, at::Tensor* tensor, int root) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    options.rootTensor = 0;
    bridge::finish(group->inner->broadcast(tensors, options));
  });
}

char* c10d_all_gather(
    c10d_group* group, at::Tensor* input, at::Tensor** outputs, size_t count) {
  return guarded([&] {
    std::vector<at::Tensor> inputs{*input};
    std::vector<std::vector<at::Tensor>> gathered(1);
    for (size_t index = 0; index < count; ++index) {
      gathered[0].push_back(*outputs[index]);
    }
    bridge::finish(group->inner->allgather(gathered, inputs));
  });
}
}
