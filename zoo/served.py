"""Keras' and TensorFlow's own ways out of a model. Our own, which check what they write, are in ``export``."""

from __future__ import annotations

from typing import Any

import keras

from ..layers import functional as F
from ..layers.portable import PORTABLE


class Served:
    """What Keras cannot know of a model that takes a dict: names, dtypes and dimensions of its inputs."""

    def export(self, filepath: Any, format: str = "tf_saved_model", verbose: bool | None = None, **kwargs: Any) -> None:
        """Keras' own export, of the inputs by their names in ``signature``, which Keras cannot know.

        A served function leaves nothing out: it takes the optional inputs too, `position_ids` excepted. The checked
        way out, with a cache where there is one, is ``attention_zoo.export``.

        Args:
            kwargs: as ``keras.Model.export`` has them; `input_signature` among them, in the place of ours.
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
        """Refused: Keras quantises none of our layers, and says so in a warning for each.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"mode: got {mode!r} for a model of attention_zoo, whose layers Keras does not quantise; "
            "accepted: none here, but 'int8' and 'int4' as the precision of an exported file"
        )

    @property
    def _default_save_signature(self) -> Any:
        """What ``tf.saved_model.save`` serves, on the TensorFlow backend. Keras' own makes it of one shape."""
        import tensorflow as tf

        model: Any = self
        inputs = model.signature.exported().inputs
        given = {spec.name: tf.TensorSpec(spec.open_shape, spec.dtype, spec.name) for spec in inputs}
        return tf.function(model.by_name, input_signature=[given], autograph=False)
