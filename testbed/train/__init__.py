"""Training: named recipes, a seeded loop that resumes, evaluation on a split."""

from testbed.train.evaluation import ModelScore, evaluate, logits
from testbed.train.loop import Trained, train
from testbed.train.recipes import RECIPES, Recipe, recipe, recipe_of_preset
from testbed.train.record import Callback, EpochRecord

__all__ = [
    "RECIPES",
    "Callback",
    "EpochRecord",
    "ModelScore",
    "Recipe",
    "Trained",
    "evaluate",
    "logits",
    "recipe",
    "recipe_of_preset",
    "train",
]
