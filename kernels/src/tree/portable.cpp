// Any processor: words of 64 bits.
#include "tree/slices.hpp"

namespace compactnets::tree {
namespace {

struct Word {
  using Type = std::uint64_t;
  static constexpr int kCount = 1;
  static Type load(const std::uint64_t* p) { return *p; }
  static void store(std::uint64_t* p, Type v) { *p = v; }
  static Type zero() { return 0; }
  static Type flip(Type v) { return ~v; }
  static Type add(Type& a, Type b, Type c) {
    const Type half = a ^ b, carry = (a & b) | (half & c);
    a = half ^ c;
    return carry;
  }
};

}  // namespace

const Operations portable_operations = {channel<Word>, unslice_bits, finish, sign_bits};

}  // namespace compactnets::tree
