// The judge behind a C ABI: what the analysis asks of every output row, in one pass over it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "abi.h"

namespace {

enum Status : std::int32_t { kOk = 0, kBadRequest = 1, kNoMemory = 2 };

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Question {
  const float* faulty;             // rows x elements
  const float* golden;             // golden rows x elements
  const std::int64_t* golden_row;  // which of them belongs to each row; null: the row of the same number
  std::int64_t elements;
  const double* atol;  // per row
  double rtol;
  const double* rtol_grid;
  std::int32_t rtols;
};

struct Findings {
  std::uint8_t* identical;  // every bit is the golden's
  std::uint8_t* nonfinite;  // NaN or infinity in the faulty row
  std::int32_t* mismatches;
  double* max_abs_diff;
  double* masking_atol;  // rows x rtols
};

// Elements per block: the working arrays stay in the first-level cache, and a block's largest excess over its relative
// tolerance says whether the second, exact look must come back to it.
constexpr std::int64_t kBlock = 256;

struct Block {
  double distance[kBlock];  // |y - g|; NaN where no tolerance can make the two agree
  double scale[kBlock];     // |g|; 0 where it is not finite
  std::int64_t size;
};

struct Bits {
  bool identical, faulty_finite, golden_finite;
};

// What the one pass over a row finds.
struct Seen {
  bool identical = true;
  bool faulty_finite = true;
  bool comparable = true;  // false: some element no tolerance can mask
  std::int64_t outside = 0;
  double largest = 0;
};

#define TESTBED_JUDGE_SET baseline
#include "judge_rows.h"
#undef TESTBED_JUDGE_SET

#if defined(__x86_64__) && defined(__GNUC__)
#define TESTBED_JUDGE_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define TESTBED_JUDGE_SET avx2
#include "judge_rows.h"
#undef TESTBED_JUDGE_SET
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
#define TESTBED_JUDGE_SET avx512
#include "judge_rows.h"
#undef TESTBED_JUDGE_SET
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// Ascending; the results are the same bits, whichever is used.
enum InstructionSet : std::int32_t { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

InstructionSet best_set() {
#if defined(TESTBED_JUDGE_X86)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return kAvx512;
  }
  if (__builtin_cpu_supports("avx2")) return kAvx2;
#endif
  return kBaseline;
}

using JudgeRow = void (*)(const Question&, std::int64_t, double*, const Findings&);

JudgeRow judge_of([[maybe_unused]] std::int32_t set) {
#if defined(TESTBED_JUDGE_X86)
  if (set == kAvx512) return avx512::judge_row;
  if (set == kAvx2) return avx2::judge_row;
#endif
  return baseline::judge_row;
}

bool all_tolerances(const double* values, std::int64_t count) {
  return std::all_of(values, values + count, [](double value) { return value >= 0 && value < kInfinity; });
}

}  // namespace

// The best instruction set that both this library and this processor have; every lower number works too.
TESTBED_EXPORT std::int32_t testbed_judge_best_set() { return best_set(); }

// Judges `rows` rows of `elements` values each. Tolerances must be finite and not negative, goldens' rows in range, the
// instruction set one of this processor's; nothing is written otherwise.
TESTBED_EXPORT std::int32_t testbed_judge_rows(const float* faulty, std::int64_t rows, std::int64_t elements,
                                               const float* golden, std::int64_t golden_rows,
                                               const std::int64_t* golden_row, const double* atol, double rtol,
                                               const double* rtol_grid, std::int32_t rtols, std::int32_t set,
                                               std::uint8_t* identical, std::uint8_t* nonfinite,
                                               std::int32_t* mismatches, double* max_abs_diff, double* masking_atol) {
  const auto in_range = [golden_rows](std::int64_t row) { return row >= 0 && row < golden_rows; };
  if (rows < 0 || elements < 0 || elements > std::numeric_limits<std::int32_t>::max() || rtols < 0) return kBadRequest;
  if (golden_row ? !std::all_of(golden_row, golden_row + rows, in_range) : golden_rows < rows) return kBadRequest;
  if (!all_tolerances(atol, rows) || !all_tolerances(&rtol, 1) || !all_tolerances(rtol_grid, rtols)) return kBadRequest;
  if (set < kBaseline || set > best_set()) return kBadRequest;

  const std::int64_t blocks = (elements + kBlock - 1) / kBlock;
  const std::unique_ptr<double[]> scratch(new (std::nothrow) double[static_cast<std::size_t>((blocks + 1) * rtols)]);
  if (!scratch) return kNoMemory;
  const Question question{faulty, golden, golden_row, elements, atol, rtol, rtol_grid, rtols};
  const Findings found{identical, nonfinite, mismatches, max_abs_diff, masking_atol};
  const JudgeRow judge_row = judge_of(set);
  for (std::int64_t row = 0; row < rows; ++row) judge_row(question, row, scratch.get(), found);
  return kOk;
}
