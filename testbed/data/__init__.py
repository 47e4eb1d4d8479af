"""Data sets by name, their preprocessing and augmentations."""

from testbed.data.dataset import Collection, Dataset, Examples, FileImages, Split
from testbed.data.registry import data_root, load, register

__all__ = ["Collection", "Dataset", "Examples", "FileImages", "Split", "data_root", "load", "register"]
