"""Which layers matter: measures of a trained model, and whether the campaign bears them out."""

from __future__ import annotations

from testbed.sensitivity.fuzziness import fuzziness

__all__ = ["fuzziness"]
