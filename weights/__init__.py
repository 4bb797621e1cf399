"""Tensors by name, and the rules between names. Nothing here knows a family of models."""
