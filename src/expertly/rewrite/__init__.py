"""Dense models into mixtures, mixtures into larger ones, several models into one."""

from expertly.rewrite.folder import Rewritten
from expertly.rewrite.merge_recipe import MergeExpert, MergeRecipe
from expertly.rewrite.merging import merge
from expertly.rewrite.methods import Duplication, Upcycling
from expertly.rewrite.upcycling import upcycle

__all__ = [
    "Duplication",
    "MergeExpert",
    "MergeRecipe",
    "Rewritten",
    "Upcycling",
    "merge",
    "upcycle",
]
