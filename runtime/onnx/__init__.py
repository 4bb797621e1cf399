"""Execution of ONNX files in ONNX Runtime."""
