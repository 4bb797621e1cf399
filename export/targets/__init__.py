"""Which runtimes can read an ONNX file: their operators, and the check of a file."""
