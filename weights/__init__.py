"""Named tensors of weight files, and the rules that map them to a model's weights, independent of the model family."""
