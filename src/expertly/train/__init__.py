"""Training a mixture from a recipe: data, steps, evaluation, checkpoints, a watch over routers."""

from expertly.train.evaluate import bits_per_byte
from expertly.train.loop import Summary, train
from expertly.train.recipe import Recipe, read_recipe

__all__ = ["Recipe", "Summary", "bits_per_byte", "read_recipe", "train"]
