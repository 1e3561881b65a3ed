#include "common/workspace.hpp"

#include <array>
#include <memory>
#include <new>

namespace compactnets {
namespace {

struct Free {
  void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{64}); }
};

struct Buffer {
  std::unique_ptr<std::byte, Free> bytes;
  std::size_t size = 0;
};

// Under the address sanitizer a buffer is never larger than asked for, so that it sees a read beyond.
#ifdef __SANITIZE_ADDRESS__
bool fits(std::size_t size, std::size_t bytes) { return size == bytes; }
#else
bool fits(std::size_t size, std::size_t bytes) { return size >= bytes; }
#endif

}  // namespace

void* workspace_bytes(Slot slot, std::size_t bytes) {
  thread_local std::array<Buffer, 4> buffers;
  Buffer& buffer = buffers[static_cast<std::size_t>(slot)];
  if (!buffer.bytes || !fits(buffer.size, bytes)) {
    buffer.bytes.reset();
    buffer.size = 0;
    buffer.bytes.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64})));
    buffer.size = bytes;
  }
  return buffer.bytes.get();
}

}  // namespace compactnets
