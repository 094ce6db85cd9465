"""Dense models into mixtures, mixtures into larger ones, several models into one."""

from expertly.rewrite.folder import Rewritten
from expertly.rewrite.methods import Duplication, Upcycling
from expertly.rewrite.upcycling import upcycle

__all__ = ["Duplication", "Rewritten", "Upcycling", "upcycle"]
