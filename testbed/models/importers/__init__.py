"""Weights that people already have: from and to the files of vit-pytorch, timm, torchvision and Hugging Face."""

from testbed.models.importers.checkpoint import read_checkpoint
from testbed.models.importers.importing import ImportedModel, import_weights
from testbed.models.importers.layouts import LAYOUT_NAMES
from testbed.models.importers.writing import export_vit_pytorch, save_vit_pytorch

__all__ = [
    "LAYOUT_NAMES",
    "ImportedModel",
    "export_vit_pytorch",
    "import_weights",
    "read_checkpoint",
    "save_vit_pytorch",
]
