"""ONNX files in ONNX Runtime."""
