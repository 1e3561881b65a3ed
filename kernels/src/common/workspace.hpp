// Scratch memory of a call. Each thread keeps its buffers from call to call: fresh pages from the
// system would cost more than many a kernel.
#pragma once
#include <cstddef>
#include <cstdint>

namespace compactnets {

// Buffers of different slots are independent; a second request for the same slot on the same thread
// may move it. Threads of a team have buffers of their own.
enum class Slot { activations, products, weights, sums };

// At least `bytes` bytes, aligned to 64; what they hold is undefined. Throws std::bad_alloc.
void* workspace_bytes(Slot slot, std::size_t bytes);

template <typename T>
T* workspace(Slot slot, std::int64_t count) {
  return static_cast<T*>(workspace_bytes(slot, static_cast<std::size_t>(count) * sizeof(T)));
}

}  // namespace compactnets
