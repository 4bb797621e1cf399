"""Compute attention over three small vectors step by step, as introductory texts do on paper.

    python examples/attention_by_hand.py

Takes a few seconds. Prints the scores, the attention weights, and the output for each of the three vectors. The first
output is [1.9366, 6.6831, 1.5951].
"""

import numpy as np
from keras import ops

from attention_zoo.layers import functional as F

inputs = np.array([[1, 0, 1, 0], [0, 2, 0, 2], [1, 1, 1, 1]], "float32")  # (3 tokens, 4 features)
w_query = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1]], "float32")
w_key = np.array([[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 1, 0]], "float32")
w_value = np.array([[0, 2, 0], [0, 3, 0], [1, 0, 3], [1, 1, 0]], "float32")

query, key, value = inputs @ w_query, inputs @ w_key, inputs @ w_value  # (3, 3) each
print("scores (dot products of queries and keys):\n", query @ key.T)

# The function expects (batch, heads, length, head dimension). The scale is 1, as in the textbook example; attention
# layers use 1 / sqrt(head dimension).
batched = [ops.convert_to_tensor(matrix[None, None]) for matrix in (query, key, value)]
output, weights = F.dot_product_attention(*batched, scale=1.0, return_scores=True)
print("attention weights (softmax of the scores):\n", ops.convert_to_numpy(weights)[0, 0].round(4))
print("output (values weighted by the attention weights):\n", ops.convert_to_numpy(output)[0, 0].round(4))
