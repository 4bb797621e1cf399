"""Comparison of an exported file with the Keras model that it was made from."""
