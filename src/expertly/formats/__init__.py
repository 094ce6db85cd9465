"""Containers and block types of weights: GGUF in and out, and what their bytes mean; no torch."""
