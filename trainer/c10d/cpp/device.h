// The C face of a GPU's streams, events and memory; the rules are bridge.h's.
// `index` is the GPU's number. "Current" is what libtorch calls the current
// stream of the calling thread.
#pragma once

#include "bridge.h"

#include <memory>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

struct c10d_event {
  c10::Event inner{c10::DeviceType::CUDA};
};

extern "C" {
// A stream of libtorch's pool becomes the current one, and the GPU the current one.
char* c10d_own_stream(int index);
// An event after everything that the current stream has been given so far.
char* c10d_event_new(int index, c10d_event** out);
// The current stream waits for the event; the host does not.
char* c10d_event_block(c10d_event* event, int index);
void c10d_event_drop(c10d_event* event);
// The memory of a tensor made on another stream is not given out again before the
// current stream is done with what it has been given until the tensor is dropped.
char* c10d_used_on_stream(at::Tensor* tensor);
// Which kernels scaled_dot_product_attention may take from now on, in this process.
char* c10d_choose_attention();
// The same as they are now: flash, memory-efficient, cuDNN's, and the one of plain products.
char* c10d_attention(bool out[4]);
// Bytes in tensors now, the most there were, the most taken from the GPU.
char* c10d_device_memory(int index, int64_t out[3]);
}
