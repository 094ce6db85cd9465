"""The learning rate as a function of the step."""

import math

from expertly.train.recipe import OptimiserRecipe


def learning_rate(step: int, num_steps: int, recipe: OptimiserRecipe) -> float:
    """The rate of step 0, 1, ...: a straight rise over `warmup_steps`, whose last step has the
    peak, then half a cosine that ends at floor * peak with the last step."""
    if step < recipe.warmup_steps:
        return recipe.peak_lr * (step + 1) / recipe.warmup_steps
    length = num_steps - 1 - recipe.warmup_steps
    progress = min(1.0, (step - recipe.warmup_steps) / length) if length > 0 else 1.0
    share = recipe.floor + (1 - recipe.floor) * (1 + math.cos(math.pi * progress)) / 2
    return recipe.peak_lr * share
