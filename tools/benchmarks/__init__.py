"""Side-by-side benchmarks against other tools: what both sides are given, how each is run, how the clock is read."""
