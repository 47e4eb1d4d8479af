"""Models from Python: train or import one, record its golden, export it, compare it with others."""
