"""TFLite files in reduced precision."""
