"""Keras to ONNX: operators, conversion, files."""
