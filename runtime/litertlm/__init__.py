"""LiteRT-LM bundles in the LiteRT-LM engine."""
