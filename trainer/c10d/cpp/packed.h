// The C face of linear layers over weights that are laid out for this processor; the
// rules are bridge.h's. Tensors given back are the caller's, to be freed as tch does.
#pragma once

#include "bridge.h"

#include <ATen/core/Tensor.h>

extern "C" {
// A copy of `weight` (outputs, inputs; on the CPU) in the layout in which
// oneDNN takes it for products of about `rows` rows: `packed` is opaque, `memory` are its
// bytes, in the same memory, which lives as long as either.
char* c10d_pack_weight(
    at::Tensor* weight, int64_t rows, at::Tensor** packed, at::Tensor** memory);
// x @ weight.T + bias over the last dimension; `bias` may be nullptr.
char* c10d_packed_linear(
    at::Tensor* x, at::Tensor* packed, at::Tensor* bias, at::Tensor** out);
}
