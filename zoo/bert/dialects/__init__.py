"""Tables of Hugging Face checkpoints for BERT, a file for each group of similar models."""
