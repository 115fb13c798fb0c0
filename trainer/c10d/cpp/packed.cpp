// oneDNN's linear layers over prepacked weights, which libtorch has for its compiler:
// operators without a declaration in its headers, hence by name.
#include "packed.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

// Exported by libtorch_cpu, declared in a header that is not part of it.
namespace at::native {
void* data_ptr_from_mkldnn(const Tensor& tensor);
int64_t nbytes_from_mkldnn(const Tensor& tensor);
} // namespace at::native

namespace {
using Arguments = std::vector<c10::IValue>;

at::Tensor call(const char* name, Arguments arguments) {
  const c10::NoGradGuard no_grad;
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(arguments);
  return arguments.at(0).toTensor();
}
} // namespace

using bridge::guarded;

extern "C" {
char* c10d_pack_weight(
    at::Tensor* weight, int64_t rows, at::Tensor** packed, at::Tensor** memory) {
  return guarded([&] {
    const auto opaque = call("mkldnn::_reorder_linear_weight", {*weight, rows});
    const auto bytes = at::from_blob(
        at::native::data_ptr_from_mkldnn(opaque),
        {at::native::nbytes_from_mkldnn(opaque)},
        [opaque](void*) {},
        at::TensorOptions(at::kByte));
    auto owned = std::make_unique<at::Tensor>(opaque);
    *memory = new at::Tensor(bytes);
    *packed = owned.release();
  });
}

char* c10d_packed_linear(
    at::Tensor* x, at::Tensor* packed, at::Tensor* bias, at::Tensor** out) {
  return guarded([&] {
    Arguments arguments{*x, *packed};
    arguments.push_back(bias == nullptr ? c10::IValue() : c10::IValue(*bias));
    arguments.emplace_back(std::string("none"));
    arguments.emplace_back(c10::List<std::optional<at::Scalar>>());
    arguments.emplace_back(std::string());
    *out = new at::Tensor(call("mkldnn::_linear_pointwise", std::move(arguments)));
  });
}
}
