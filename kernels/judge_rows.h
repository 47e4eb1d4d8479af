// Judging one output row against its golden, in the numbers of testbed/analysis/compare.py, which is the reference: every
// result is bit-equal to it. No include guard: kernels/judge.cpp includes this once per instruction set, with
// TESTBED_JUDGE_SET naming the namespace. Nothing but plain loops that compilers vectorise; a product and a sum must not be
// contracted (-ffp-contract=off), since the reference rounds both.
namespace TESTBED_JUDGE_SET {

inline std::uint32_t word_of(float value) {
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

inline std::int64_t bits_of(double value) {
  std::int64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The largest of 0 and value(0) ... value(n - 1); NaN (of positive sign) is above all. By their bits, signed doubles of 0 and
// more have the order of integers, and all others are below: a maximum of integers may be taken in any order, so that
// compilers vectorise it. Where there are many, four at a time, since each must wait for the one before.
template <typename Value>
inline double largest_of(std::int64_t n, Value value) {
  const std::int64_t quarter = n < 64 ? 0 : n / 4;
  std::int64_t a = 0, b = 0, c = 0, d = 0;
  for (std::int64_t i = 0; i < quarter; ++i) {
    a = std::max(a, bits_of(value(i)));
    b = std::max(b, bits_of(value(quarter + i)));
    c = std::max(c, bits_of(value(2 * quarter + i)));
    d = std::max(d, bits_of(value(3 * quarter + i)));
  }
  for (std::int64_t i = 4 * quarter; i < n; ++i) a = std::max(a, bits_of(value(i)));
  const std::int64_t bits = std::max(std::max(a, b), std::max(c, d));
  double largest;
  std::memcpy(&largest, &bits, sizeof largest);
  return largest;
}

inline Bits compare_bits(const float* faulty, const float* golden, std::int64_t n) {
  constexpr std::uint32_t kMagnitude = 0x7FFFFFFF, kInfinityBits = 0x7F800000;
  std::uint32_t difference = 0, largest = 0, largest_golden = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t y = word_of(faulty[i]), g = word_of(golden[i]);
    difference |= y ^ g;
    largest = std::max(largest, y & kMagnitude);
    largest_golden = std::max(largest_golden, g & kMagnitude);
  }
  return {difference == 0, largest < kInfinityBits, largest_golden < kInfinityBits};
}

// finite: whether all of both are.
inline void load(Block& block, const float* faulty, const float* golden, std::int64_t n, bool finite) {
  block.size = n;
  for (std::int64_t i = 0; i < n; ++i) {
    const double y = faulty[i], g = golden[i];
    block.distance[i] = std::fabs(y - g);
    block.scale[i] = std::fabs(g);
  }
  if (finite) return;
  for (std::int64_t i = 0; i < n; ++i) {
    const double apart = block.distance[i] < kInfinity ? block.distance[i] : kNaN;
    block.distance[i] = faulty[i] == golden[i] ? 0.0 : apart;
    block.scale[i] = block.scale[i] < kInfinity ? block.scale[i] : 0.0;
  }
}

inline std::int64_t count_outside(const Block& block, double atol, double rtol) {
  std::int64_t outside = 0;
  for (std::int64_t i = 0; i < block.size; ++i) {
    outside += !(block.distance[i] <= atol + rtol * block.scale[i]);
  }
  return outside;
}

inline double largest_distance(const Block& block) {
  return largest_of(block.size, [&block](std::int64_t i) { return block.distance[i]; });
}

inline double largest_excess(const Block& block, double rtol) {
  return largest_of(block.size, [&block, rtol](std::int64_t i) { return block.distance[i] - rtol * block.scale[i]; });
}

// The neighbours of a finite double of 0 or more, and more than 0.
inline double above(double value) {
  std::int64_t bits = bits_of(value) + 1;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline double below(double value) {
  std::int64_t bits = bits_of(value) - 1;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The smallest a >= 0 with fl(a + slack) >= distance: `_smallest_addend` of the reference, which says why.
inline double smallest_addend(double distance, double slack) {
  if (distance <= slack) return 0.0;
  const double difference = distance - slack, back = difference + slack;
  const double error = (distance - back) + (slack - (back - difference));
  const double half_gap = (distance - below(distance)) / 2;
  const double about = difference + (error - half_gap);
  double atol = about > 0 ? about : 0.0;
  while (atol + slack < distance) atol = above(atol);
  while (atol > 0 && below(atol) + slack >= distance) atol = below(atol);
  return atol;
}

// What the block's elements of an excess of `near` or more need, where that is more than `atol`.
inline double raised(const Block& block, double rtol, double near, double atol) {
  for (std::int64_t i = 0; i < block.size; ++i) {
    const double distance = block.distance[i], slack = rtol * block.scale[i];
    if (distance - slack >= near && atol + slack < distance) atol = smallest_addend(distance, slack);
  }
  return atol;
}

inline Seen look(const Question& q, const float* faulty, const float* golden, double atol, double* excess, double* most) {
  Seen seen;
  Block block;
  for (std::int64_t start = 0; start < q.elements; start += kBlock, excess += q.rtols) {
    std::fill(excess, excess + q.rtols, 0.0);
    const std::int64_t n = std::min(kBlock, q.elements - start);
    const Bits bits = compare_bits(faulty + start, golden + start, n);
    const bool finite = bits.faulty_finite && bits.golden_finite;
    seen.identical &= bits.identical;
    seen.faulty_finite &= bits.faulty_finite;
    if (bits.identical && finite) continue;
    load(block, faulty + start, golden + start, n, finite);
    seen.outside += count_outside(block, atol, q.rtol);
    if (!seen.comparable) continue;  // only the count is still open
    const double farthest = largest_distance(block);
    if (std::isnan(farthest)) {
      seen.comparable = false;
      continue;
    }
    seen.largest = std::max(seen.largest, farthest);
    for (std::int32_t r = 0; r < q.rtols; ++r) {
      if (q.rtol_grid[r] == 0) continue;
      excess[r] = largest_excess(block, q.rtol_grid[r]);
      most[r] = std::max(most[r], excess[r]);
    }
  }
  return seen;
}

// The exact look, at the blocks that may hold what decides. excess: blocks x rtols; near: what an excess must reach;
// masking: 0 to begin with.
inline void look_again(const Question& q, const float* faulty, const float* golden, const double* excess,
                       const double* near, double* masking) {
  Block block;
  for (std::int64_t start = 0; start < q.elements; start += kBlock, excess += q.rtols) {
    bool loaded = false;
    for (std::int32_t r = 0; r < q.rtols; ++r) {
      if (excess[r] < near[r]) continue;
      if (!loaded) load(block, faulty + start, golden + start, std::min(kBlock, q.elements - start), false);
      loaded = true;
      masking[r] = raised(block, q.rtol_grid[r], near[r], masking[r]);
    }
  }
}

// One row: its part of every column of `found`. scratch: (blocks + 1) x rtols.
inline void judge_row(const Question& q, std::int64_t row, double* scratch, const Findings& found) {
  const float* faulty = q.faulty + row * q.elements;
  const float* golden = q.golden + (q.golden_row ? q.golden_row[row] : row) * q.elements;
  double* const most = scratch;
  double* const excess = scratch + q.rtols;
  std::fill(most, most + q.rtols, 0.0);
  const Seen seen = look(q, faulty, golden, q.atol[row], excess, most);

  found.identical[row] = seen.identical;
  found.nonfinite[row] = !seen.faulty_finite;
  found.mismatches[row] = static_cast<std::int32_t>(seen.outside);
  found.max_abs_diff[row] = seen.comparable ? seen.largest : kInfinity;
  double* const masking = found.masking_atol + row * q.rtols;
  std::fill(masking, masking + q.rtols, seen.comparable ? 0.0 : kInfinity);
  if (!seen.comparable || seen.largest == 0) return;
  // An element needs its excess to within the rounding of its distance: only those near the largest can decide.
  const double rounding = 0x1p-50 * seen.largest;
  for (std::int32_t r = 0; r < q.rtols; ++r) {
    if (q.rtol_grid[r] == 0) masking[r] = seen.largest;
    most[r] = most[r] > 0 ? most[r] - rounding : kInfinity;
  }
  look_again(q, faulty, golden, excess, most, masking);
}

}  // namespace TESTBED_JUDGE_SET
