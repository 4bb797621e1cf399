"""Load, run and describe exported files. Requires NumPy and the file's runtime, but neither Keras nor TensorFlow."""
