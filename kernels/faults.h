// What a fault does to a value, once, for host and device code: v' = ((v & and) | or) ^ xor on the value's bits.
// testbed/semantics.py is the reference; everything built from this header is tested bit-equal to it.
#ifndef TESTBED_FAULTS_H
#define TESTBED_FAULTS_H

#include <cstdint>

#if defined(__CUDACC__)
#define TESTBED_HOST_DEVICE __host__ __device__
#else
#define TESTBED_HOST_DEVICE
#endif

namespace testbed {

// Word: uint8_t, uint16_t or uint32_t, the unsigned word as wide as the struck value. Integer arithmetic only, so NaN
// payloads, denormals and the sign of zero go through untouched.
template <typename Word>
TESTBED_HOST_DEVICE constexpr Word corrupt(Word value, Word and_mask, Word or_mask, Word xor_mask) {
  static_assert(Word(-1) > Word(0), "faults act on unsigned words");
  return static_cast<Word>(((value & and_mask) | or_mask) ^ xor_mask);
}

TESTBED_HOST_DEVICE constexpr bool in_bounds(std::int64_t index, std::int64_t elements) {
  return index >= 0 && index < elements;
}

}  // namespace testbed

#endif
