"""How one fault is evaluated: the contract, the whole twin, and the proven shortcuts."""
