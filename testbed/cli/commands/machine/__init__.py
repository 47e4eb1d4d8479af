"""Commands of this machine: doctor, data, cache, help."""
