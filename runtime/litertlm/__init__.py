"""Execution and inspection of LiteRT-LM bundles."""
