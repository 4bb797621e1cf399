"""``export`` and ``quantize`` of Keras and ``tf.saved_model.save`` for the models of this package.

The exporters of this package, which verify the files they write, are in ``attention_zoo.export``.
"""

from __future__ import annotations

from typing import Any

import keras

from ..layers import functional as F
from ..layers.portable import PORTABLE


class Served:
    """A mixin that provides Keras' exporters with the names, dtypes and dimensions of a model's inputs.

    The models take a dict of inputs, for which Keras cannot infer these.
    """

    def export(self, filepath: Any, format: str = "tf_saved_model", verbose: bool | None = None, **kwargs: Any) -> None:
        """Export the model with ``keras.Model.export``, with inputs named as in ``signature``.

        All inputs except `position_ids` are required in the exported function, also those that are optional in a call.
        ``attention_zoo.export`` verifies its files and supports key/value caches; this method does neither.

        Args:
            filepath, format, verbose: as in ``keras.Model.export``.
            kwargs: further arguments of ``keras.Model.export``. An `input_signature` replaces that of this model.
        """
        model: Any = self
        if kwargs.get("input_signature") is None:
            kwargs["input_signature"] = [
                {
                    spec.name: keras.InputSpec(dtype=spec.dtype, shape=spec.open_shape, name=spec.name)
                    for spec in model.signature.exported().inputs
                }
            ]
        with F.lowering(PORTABLE if format == "onnx" else {}):
            super().export(filepath, format=format, verbose=verbose, **kwargs)  # pyright: ignore

    def quantize(self, mode: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError: Keras cannot quantize the layers of this package, and would only warn about each of them.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"mode: got {mode!r} for a model of attention_zoo, whose layers Keras does not quantize; "
            "accepted: none here, but 'int8' and 'int4' as the precision of an exported file"
        )

    @property
    def _default_save_signature(self) -> Any:
        """The function that ``tf.saved_model.save`` serves, on the TensorFlow backend.

        The property of the same name in Keras creates a function for a single input shape.
        """
        import tensorflow as tf

        model: Any = self
        inputs = model.signature.exported().inputs
        given = {spec.name: tf.TensorSpec(spec.open_shape, spec.dtype, spec.name) for spec in inputs}
        return tf.function(model.by_name, input_signature=[given], autograph=False)
