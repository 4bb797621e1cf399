"""ONNX graphs in smaller number formats."""
