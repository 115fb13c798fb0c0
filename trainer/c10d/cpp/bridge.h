// The C face of libtorch's distributed engine. Rules of every function:
// - no C++ exception leaves it: it returns nullptr on success, or a message to
//   be released with c10d_free;
// - pointers are borrowed for the call, handles are owned by the caller and
//   released with the matching *_drop, which accepts nullptr;
// - a tensor is an `at::Tensor*`.
#pragma once

#include <cstddef>
#include <cstdint>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

struct c10d_store {
  c10::intrusive_ptr<c10d::TCPStore> inner;
};

struct c10d_group {
  c10::intrusive_ptr<c10d::Backend> inner;
};

namespace bridge {
char* message(const char* text) noexcept;

// Runs `body` and turns whatever it throws into a message.
template <typename Body>
char* guarded(Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return message(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return message("unknown C++ exception");
  }
}
} // namespace bridge

extern "C" {
void c10d_free(char* text);

char* c10d_store_new(
    const char* host,
    uint16_t port,
    int is_server,
    int64_t timeout_ms,
    c10d_store** out);
void c10d_store_drop(c10d_store* store);
// The port that it listens on, or is connected to.
uint16_t c10d_store_port(const c10d_store* store);
char* c10d_store_set(c10d_store* store, const char* key, const char* value);
// `*out` stays nullptr where the key is not set; never waits for it.
char* c10d_store_get(c10d_store* store, const char* key, char** out);

// `host`: name or address of this machine, at which the other ranks reach it.
char* c10d_gloo_new(
    c10d_store* store, int rank, int size, int64_t timeout_ms, const char* host,
    c10d_group** out);
char* c10d_nccl_new(
    c10d_store* store, int rank, int size, int64_t timeout_ms, c10d_group** out);
void c10d_group_drop(c10d_group* group);

char* c10d_all_reduce(c10d_group* group, at::Tensor* tensor, int op);
char* c10d_broadcast(c10d_group* group, at::Tensor* tensor, int root);
char* c10d_all_gather(
    c10d_group* group, at::Tensor* input, at::Tensor** outputs, size_t count);
}
