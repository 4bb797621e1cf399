"""Export of Keras models to TFLite (LiteRT): operators, conversion, signatures and files."""
