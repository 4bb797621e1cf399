"""All cases of ``keras.ops``, and the public functions without any, each with its reason."""

from __future__ import annotations

import keras
import ops_arrays
import ops_elementwise
import ops_models
from ops_values import Case

CASES: list[Case] = [*ops_elementwise.CASES, *ops_arrays.CASES, *ops_models.CASES]

EXEMPT = {
    **dict.fromkeys(
        ("bartlett", "corrcoef", "isin", "kron", "nanmedian", "nanpercentile", "nanquantile"),
        "cannot be part of a graph in Keras, which reads the values of tensors there",
    ),
    "convert_to_numpy": "returns an array outside of the graph",
    "vectorize": "is not supported by Keras on TensorFlow",
    "jvp": "is a derivative of a function, for training",
}

MODULES = ("image", "linalg", "nn", "numpy")  # the functions of all but image are also those of keras.ops itself
PUBLIC = sorted(
    {name for name in dir(keras.ops) if not name.startswith("_") and name not in MODULES}
    | {f"image.{name}" for name in dir(keras.ops.image) if not name.startswith("_")}
)
