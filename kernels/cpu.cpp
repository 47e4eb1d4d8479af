// The CPU kernel behind a C ABI: many faults into one buffer, in place.
#include <cstring>

#include "faults.h"

#if defined(_WIN32)
#define TESTBED_EXPORT extern "C" __declspec(dllexport)
#else
#define TESTBED_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

// Raised whenever a signature or a code below changes its meaning; testbed/engines/native.py asks for it.
constexpr std::int32_t kAbiVersion = 1;

enum Status : std::int32_t { kOk = 0, kBadWidth = 1, kIndexOutOfRange = 2 };

// Values are moved with memcpy: the buffer's own type is float, half or an integer, and need not be aligned.
template <typename Word>
void apply(unsigned char* values, std::int64_t faults, const std::int64_t* indices, const std::uint32_t* and_masks,
           const std::uint32_t* or_masks, const std::uint32_t* xor_masks) {
  for (std::int64_t i = 0; i < faults; ++i) {
    unsigned char* place = values + static_cast<std::size_t>(indices[i]) * sizeof(Word);
    Word word;
    std::memcpy(&word, place, sizeof(Word));
    word = testbed::corrupt<Word>(word, static_cast<Word>(and_masks[i]), static_cast<Word>(or_masks[i]),
                                  static_cast<Word>(xor_masks[i]));
    std::memcpy(place, &word, sizeof(Word));
  }
}

}  // namespace

TESTBED_EXPORT std::int32_t testbed_abi_version() { return kAbiVersion; }

// Applies `faults` faults, in order, to a buffer of `elements` values of `width` bytes (1, 2 or 4). Masks wider than
// the value are cut to its width. Everything is checked first: on any status but 0 the buffer is as it was.
TESTBED_EXPORT std::int32_t testbed_apply_faults(void* buffer, std::int64_t elements, std::int32_t width,
                                                 std::int64_t faults, const std::int64_t* indices,
                                                 const std::uint32_t* and_masks, const std::uint32_t* or_masks,
                                                 const std::uint32_t* xor_masks) {
  if (width != 1 && width != 2 && width != 4) return kBadWidth;
  for (std::int64_t i = 0; i < faults; ++i) {
    if (!testbed::in_bounds(indices[i], elements)) return kIndexOutOfRange;
  }
  auto* values = static_cast<unsigned char*>(buffer);
  if (width == 1) apply<std::uint8_t>(values, faults, indices, and_masks, or_masks, xor_masks);
  if (width == 2) apply<std::uint16_t>(values, faults, indices, and_masks, or_masks, xor_masks);
  if (width == 4) apply<std::uint32_t>(values, faults, indices, and_masks, or_masks, xor_masks);
  return kOk;
}
