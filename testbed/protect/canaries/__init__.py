"""Canaries: faults put before every guard, under every check and into every copy of a built engine, which have to show."""
