// Golden outputs with a change of rank one, behind a C ABI: what a fault in v or k leaves of an attention module's output,
// written in one pass over it. The numbers are those of NumPy, which rounds after each operation.
#include <algorithm>
#include <cstdint>

#include "abi.h"

namespace {

enum Status : std::int32_t { kOk = 0, kBadRequest = 1 };

// out = golden + down * across
void add_outer(float* out, const float* golden, float down, const float* across, std::int64_t width) {
  for (std::int64_t i = 0; i < width; ++i) out[i] = golden[i] + down * across[i];
}

// out = golden + down * (across - from)
void add_drawn(float* out, const float* golden, float down, const float* across, const float* from, std::int64_t width) {
  for (std::int64_t i = 0; i < width; ++i) out[i] = golden[i] + down * (across[i] - from[i]);
}

}  // namespace

// For each of `rows` changes, `tokens` x `width` outputs: out[t] = golden[t] + down[t] * (across - from[t]), where `from` is
// 0 if it is null. golden: `goldens` arrays, of which `golden_row` names each change's; down: rows x tokens; across: rows x
// width; from: one array of tokens x width for each change. Nothing is written if a golden is not there.
TESTBED_EXPORT std::int32_t testbed_add_changes(float* out, std::int64_t rows, std::int64_t tokens, std::int64_t width,
                                                const float* golden, std::int64_t goldens,
                                                const std::int64_t* golden_row, const float* down, const float* across,
                                                const float* const* from) {
  const auto in_range = [goldens](std::int64_t row) { return row >= 0 && row < goldens; };
  if (rows < 0 || tokens < 0 || width < 0 || !std::all_of(golden_row, golden_row + rows, in_range)) return kBadRequest;
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* own = golden + golden_row[row] * tokens * width;
    for (std::int64_t token = 0; token < tokens; ++token, out += width) {
      const float by = down[row * tokens + token];
      const float* before = own + token * width;
      if (from) {
        add_drawn(out, before, by, across + row * width, from[row] + token * width, width);
      } else {
        add_outer(out, before, by, across + row * width, width);
      }
    }
  }
  return kOk;
}
