"""Which tensors and weights are sites, and their human names."""
