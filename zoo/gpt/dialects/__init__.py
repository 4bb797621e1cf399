"""Tables of Hugging Face checkpoints for GPT, a file for each group of similar models."""
