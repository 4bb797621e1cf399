"""ONNX graphs in reduced precision."""
