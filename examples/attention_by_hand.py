"""Attention on three small vectors, step by step: the example that introductions work out on paper.

    python examples/attention_by_hand.py

Takes seconds. The last line is the output for each input; the first is [1.9366, 6.6831, 1.5951].
"""

import numpy as np
from keras import ops

from attention_zoo.layers import functional as F

inputs = np.array([[1, 0, 1, 0], [0, 2, 0, 2], [1, 1, 1, 1]], "float32")  # (3 tokens, 4 features)
w_query = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1]], "float32")
w_key = np.array([[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 1, 0]], "float32")
w_value = np.array([[0, 2, 0], [0, 3, 0], [1, 0, 3], [1, 1, 0]], "float32")

query, key, value = inputs @ w_query, inputs @ w_key, inputs @ w_value  # (3, 3) each
print("how well each query fits each key:\n", query @ key.T)

# The layer's arithmetic takes (batch, heads, length, width). Textbooks leave the scale out here.
batched = [ops.convert_to_tensor(matrix[None, None]) for matrix in (query, key, value)]
output, weights = F.dot_product_attention(*batched, scale=1.0, return_scores=True)
print("softmax of that:\n", ops.convert_to_numpy(weights)[0, 0].round(4))
print("the values, mixed by those weights:\n", ops.convert_to_numpy(output)[0, 0].round(4))
