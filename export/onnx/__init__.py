"""Export of Keras models to ONNX: operators, conversion and files."""
