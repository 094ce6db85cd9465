"""Files to model and back: Hugging Face folders of safetensors, strict both ways."""

from expertly.checkpoint.load import load
from expertly.checkpoint.locate import locate
from expertly.checkpoint.save import save, whole_folder

__all__ = ["load", "locate", "save", "whole_folder"]
