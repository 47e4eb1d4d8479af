"""What the doctor asks of the native libraries: those of the engines' tests."""

from tests.engines.conftest import native_build

__all__ = ["native_build"]
