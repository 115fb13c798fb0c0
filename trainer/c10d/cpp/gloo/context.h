// Stand-ins for the few gloo types that ProcessGroupGloo.hpp names. The published
// libtorch has gloo's code inside libtorch_cpu.so but not gloo's headers. The
// group below never creates, copies or calls any of these types itself: they are only
// named, or held by a std::shared_ptr that libtorch fills, so a declaration is enough.
// group_gloo.cpp asserts the size of ProcessGroupGloo against the one that
// was measured inside libtorch.
#pragma once
#include <chrono>
namespace gloo {
class Context {
 public:
  virtual ~Context();
  void setTimeout(std::chrono::milliseconds timeout);
};
} // namespace gloo
