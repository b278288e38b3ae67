"""Training: recipes, checkpoints, evaluation, and the run that ties them together."""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .evaluate import Evaluation, evaluate
from .loop import train
from .recipe import RECIPES, Recipe, get_recipe, learning_rate
from .results import TrainResult

__all__ = [
    "RECIPES",
    "Checkpoint",
    "Evaluation",
    "Recipe",
    "TrainResult",
    "evaluate",
    "get_recipe",
    "learning_rate",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
