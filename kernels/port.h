// A fault port: what the faults of one batch do to one tensor, once, for the ONNX Runtime op, the CUDA kernel and the
// TensorRT plugin.
#ifndef TESTBED_PORT_H
#define TESTBED_PORT_H

#include <cstdint>

#include "faults.h"

namespace testbed {

// The faults of a batch, one list of `slots` per batch row; all arrays are (rows, slots). An entry changes the port whose
// number `site` holds; without `site` every entry does. `index` is flat within the row, 0 to elements - 1. Masks wider
// than the value are cut to its width. Plain data: it is passed by value to kernels and from Python.
struct Faults {
  std::int64_t rows;
  std::int64_t slots;
  std::int64_t elements;
  std::int64_t port;
  const std::int64_t* site;
  const std::int64_t* index;
  const std::uint32_t* and_masks;
  const std::uint32_t* or_masks;
  const std::uint32_t* xor_masks;
};

TESTBED_HOST_DEVICE constexpr bool is_active(const Faults& faults, std::int64_t entry) {
  return faults.site == nullptr || faults.site[entry] == faults.port;
}

// The work of one thread: one entry of the fault list, in any order and at once with all others. The first active entry
// that names an element owns it: it reads the value, applies every later entry of the row that names the same element,
// in their order, and writes once. So no two threads touch one element, and the result does not depend on scheduling.
// The price is one look at each other entry of the row per active entry.
//
// values: (rows, elements). current: (rows, slots) or null; gets the value at each active entry's element before any of
// these faults, and 0 at the others. Returns false, having written nothing but 0 to `current`, for an index out of range.
template <typename Word>
TESTBED_HOST_DEVICE constexpr bool inject_entry(const Faults& faults, std::int64_t entry, Word* values, Word* current) {
  const bool active = is_active(faults, entry);
  const std::int64_t index = faults.index[entry];
  if (!active || !in_bounds(index, faults.elements)) {
    if (current != nullptr) current[entry] = 0;
    return !active;
  }
  const std::int64_t row = entry / faults.slots;
  for (std::int64_t earlier = row * faults.slots; earlier < entry; ++earlier) {
    if (is_active(faults, earlier) && faults.index[earlier] == index) return true;
  }
  Word& place = values[row * faults.elements + index];
  const Word before = place;
  Word after = before;
  for (std::int64_t later = entry; later < (row + 1) * faults.slots; ++later) {
    if (!is_active(faults, later) || faults.index[later] != index) continue;
    if (current != nullptr) current[later] = before;
    after = corrupt<Word>(after, static_cast<Word>(faults.and_masks[later]), static_cast<Word>(faults.or_masks[later]),
                          static_cast<Word>(faults.xor_masks[later]));
  }
  place = after;
  return true;
}

}  // namespace testbed

#endif
