"""Whole training runs: from a config file, or a model and a data file, to trained, exported and verified files.

The commands ``attention-zoo train`` and ``attention-zoo finetune``.
"""
