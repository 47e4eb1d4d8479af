"""Randomness that depends on (seed, purpose, epoch) alone: nothing to save, and nothing of the process is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed of its own for every purpose and epoch."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, purpose, epoch))


@contextmanager
def process_state_kept(device: torch.device, threads: int) -> Iterator[None]:
    """``threads`` compute threads inside; afterwards the thread count and the global generators are as before."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(threads_before)


def seed_layers(device: torch.device, seed: int) -> None:
    """Seeds the global generators that weight initialisation and dropout draw from."""
    torch.random.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
