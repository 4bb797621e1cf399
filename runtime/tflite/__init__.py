"""Execution and inspection of TFLite files, with LiteRT."""
