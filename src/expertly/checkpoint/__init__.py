"""Files to model and back: Hugging Face folders of safetensors, strict both ways."""

from expertly.checkpoint.loading import load
from expertly.checkpoint.locating import locate
from expertly.checkpoint.saving import save, whole_folder

__all__ = ["load", "locate", "save", "whole_folder"]
