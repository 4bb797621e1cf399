"""Exported files: open, run, describe. Needs the file's own runtime and NumPy, neither Keras nor TensorFlow."""
