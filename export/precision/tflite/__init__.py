"""TFLite files in smaller number formats."""
