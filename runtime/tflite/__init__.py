"""TFLite files in LiteRT."""
