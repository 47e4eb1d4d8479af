"""Weights that people already have: from and to the files of vit-pytorch, timm, torchvision and Hugging Face."""

from testbed.models.importers.checking import LibraryCheck, check_against_library
from testbed.models.importers.facts.described import preprocessing_described
from testbed.models.importers.facts.ledger import Told, assumed
from testbed.models.importers.facts.stated import STATED_KEYS, settings
from testbed.models.importers.importing import ImportedModel, import_weights
from testbed.models.importers.layouts import LAYOUT_NAMES
from testbed.models.importers.read.checkpoint import read_checkpoint
from testbed.models.importers.read.files import weights_file
from testbed.models.importers.writing import export_vit_pytorch, save_vit_pytorch

__all__ = [
    "LAYOUT_NAMES",
    "STATED_KEYS",
    "ImportedModel",
    "LibraryCheck",
    "Told",
    "assumed",
    "check_against_library",
    "export_vit_pytorch",
    "import_weights",
    "preprocessing_described",
    "read_checkpoint",
    "save_vit_pytorch",
    "settings",
    "weights_file",
]
