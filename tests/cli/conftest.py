"""The finished tiny campaign of tests/campaign, for the commands that run and look at campaigns."""

from tests.campaign.conftest import gated, tiny_copy, tiny_run, tiny_spec

__all__ = ["gated", "tiny_copy", "tiny_run", "tiny_spec"]
