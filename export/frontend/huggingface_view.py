"""A model of this package with the inputs and outputs that Hugging Face's loaders of ONNX files expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras import ops

from ...signature import BATCHES, Graph, Signature, TensorSpec
from ...zoo.base import ZooModel
from .any_keras.channels_first import ChannelsFirst, images_of
from .any_keras.model import Foreign

Tensor = Any
MOVED = ("height", "width")  # dimensions of an image between its batch and its channels
# Names of dynamic dimensions in a file, by their names in the signatures of this package.
DIMENSIONS: Mapping[Any, str] = {dim: f"{dim}_size" for dim in BATCHES}
SENTENCE, STATES = "sentence_embedding", "last_hidden_state"


class HuggingFaceView:
    """A view of a model for Hugging Face's loaders. All other attributes are those of the model.

    Images are (batch, channels, height, width), as in PyTorch. The output of a model of sentence embeddings is preceded
    by the hidden states that the embedding is pooled from, since the loaders read those and pool them themselves.

    Args:
        model: a model with a single graph.
        channels_first: whether to transpose images; if False they stay (batch, height, width, channels).
    """

    def __init__(self, model: ZooModel, channels_first: bool = True) -> None:
        self.model, self.channels_first = model, channels_first

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def signature(self) -> Signature:
        own = self.model.signature
        inputs = tuple(replace(spec, dims=_first(spec.dims)) if self._moves(spec) else spec for spec in own.inputs)
        if not self._pools:
            return replace(own, inputs=inputs)
        states = TensorSpec(STATES, "float32", ("batch", "sequence", self.model.config.hidden_dim))
        return replace(own, inputs=inputs, outputs=(states, *own.outputs))

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        """Return the one graph of the view; for a `kind` with a cache, the graphs of the model."""
        if kind != "plain":
            return self.model.graphs(kind)
        return {"model": Graph(self.signature.exported(), self.by_name)}

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Call the model with transposed images and return the outputs by name; see ``ZooModel.by_name``."""
        moved = {spec.name for spec in self.model.signature.inputs if self._moves(spec)}
        given = {name: ops.transpose(x, (0, 2, 3, 1)) if name in moved else x for name, x in inputs.items()}
        if not self._pools:
            return self.model.by_name(given)
        result: Any = self.model(given, output_hidden_states=True, training=False)
        states = result["hidden_states"][-1]
        norm = getattr(self.model, "final_norm", None)  # of a decoder, whose blocks are followed by a normalization
        states = states if norm is None else norm(states)
        return {STATES: ops.cast(states, "float32"), SENTENCE: result[SENTENCE]}

    @property
    def differs(self) -> bool:
        """Whether inputs or outputs differ from those of the model."""
        return self._pools or any(map(self._moves, self.model.signature.inputs))

    @property
    def _pools(self) -> bool:
        return [spec.name for spec in self.model.signature.outputs] == [SENTENCE]

    def _moves(self, spec: TensorSpec) -> bool:
        return self.channels_first and spec.dims[1:-1] == MOVED


def _first(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    return (dims[0], dims[-1], *dims[1:-1])


def in_format(model: Any, data_format: str | None) -> Any:
    """Return the view of `model` for "channels_first", or else `model` itself.

    Raises:
        ValueError: `data_format` is "channels_first", and `model` takes no images, or has their channels first already.
    """
    if data_format != "channels_first":
        return model
    if isinstance(model, Foreign):
        if not (names := images_of(model)):
            raise ValueError(
                f"data_format: got 'channels_first' for {model.name}, which takes no (batch, height, width, channels); "
                "accepted: None"
            )
        return ChannelsFirst(model, names)
    images = isinstance(model, ZooModel) and any(spec.dims[1:-1] == MOVED for spec in model.signature.inputs)
    if not images:
        kind = getattr(model, "family", type(model).__name__)
        raise ValueError(
            f"data_format: got 'channels_first' for a {kind}; accepted: None, or an image model without "
            "image_dtype='uint8'"
        )
    return HuggingFaceView(model)


def as_in_file(model: Any, signature: Signature) -> Any:
    """Return the view of `model` that a file with this signature was made from, which may be `model` itself."""
    if not isinstance(model, ZooModel):
        return model
    for view in (HuggingFaceView(model), HuggingFaceView(model, channels_first=False)):
        own = view.signature.exported()
        same = [[(s.name, s.dims) for s in side] for side in (own.inputs, own.outputs)]
        if view.differs and same == [
            [(s.name, s.dims) for s in side] for side in (signature.inputs, signature.outputs)
        ]:
            return view
    return model
