"""Smaller numbers in a file: which, how they are made, and what they cost in accuracy."""
