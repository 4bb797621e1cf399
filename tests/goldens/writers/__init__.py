"""The writers of the reference checkpoints, each registered in ``GOLDENS`` by ``golden``."""
