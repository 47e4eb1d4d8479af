"""What the doctor asks of the native libraries: those of the engines' tests."""

from tests.engines.conftest import emulated_cuda_build, native_build

__all__ = ["emulated_cuda_build", "native_build"]
