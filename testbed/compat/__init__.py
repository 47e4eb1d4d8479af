"""Which architectures of which libraries work here, shown by instantiating, exporting and faulting each of them."""
