"""Data sets by name, their preprocessing and augmentations."""

from testbed.data.collection import Collection, Examples, FileImages
from testbed.data.dataset import Dataset, Split
from testbed.data.registry import DatasetEntry, data_root, entries, load, register

__all__ = [
    "Collection",
    "Dataset",
    "DatasetEntry",
    "Examples",
    "FileImages",
    "Split",
    "data_root",
    "entries",
    "load",
    "register",
]
