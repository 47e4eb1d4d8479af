"""Who does the work: the contract of workers, a pool on this machine, and its slots."""
