"""No third-party checkpoints of Seq2Seq can be loaded: every published one has its own file format and code."""
