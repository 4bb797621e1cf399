"""Seq2Seq has no checkpoints of others: each published one has its own file format and code."""
