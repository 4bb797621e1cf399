"""Keras to TFLite (LiteRT): operators, conversion, signatures, files."""
