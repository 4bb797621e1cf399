"""Reduced precision in exported files: the options, the conversion, and the measurement of the accuracy."""
