"""Keras models, layers and functions that are not ours, as the exporters see ours."""
