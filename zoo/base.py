"""What every family shares: checked inputs, blocks and their intermediates, and Keras' own saving."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from ..finetuning.checkpointing import checkpointed
from ..finetuning.model import FineTuning
from ..signature import Graph, Signature, plain_inputs
from ..weights.rules import Dialect, by_name, weight_name
from .companions import load_companions, save_companions
from .config import Config
from .served import Served

Tensor = Any


class Intermediates:
    """What a caller wants to see beside the result: every block's states and attention weights, as they come."""

    def __init__(self, hidden_states: bool = False, attentions: bool = False) -> None:
        self.with_hidden_states, self.with_attentions = hidden_states, attentions
        self.hidden_states: list[Tensor] = []
        self.attentions: list[Tensor] = []
        self.cross_attentions: list[Tensor] = []

    def named(self, stack: str = "") -> dict[str, tuple[Tensor, ...]]:
        """Those that were asked for and that there are; `stack` stands before the names of what is its own."""
        found: dict[str, tuple[Tensor, ...]] = {}
        if self.with_hidden_states:
            found[f"{stack}hidden_states"] = tuple(self.hidden_states)
        if self.with_attentions and self.attentions:
            found[f"{stack}attentions"] = tuple(self.attentions)
        if self.with_attentions and self.cross_attentions:
            found["cross_attentions"] = tuple(self.cross_attentions)
        return found


def build_each(input_shape: tuple[int | None, ...], *layers: Any) -> None:
    """Build the layers that are there, for inputs of one shape."""
    for layer in layers:
        if layer is not None:
            layer.build(input_shape)


class ZooModel(Served, keras.Model, FineTuning):
    """A plain Keras model with a config, built on construction: ``fit``, ``save`` and ``count_params`` work at once.

    Calling takes a dict of the names in :attr:`signature`, or its first input bare. Give ``output_hidden_states``
    or ``output_attentions`` to any model for a dict with those tuples beside its result: the states before the first
    block and after each, and the attention weights of each block, (batch, heads, query, key).

    Args:
        config: the family's config, or a dict of its fields. Default: made of `overrides`.
        dtype: a Keras dtype policy. Results are float32 in any case.
        overrides: config fields.

    Raises:
        ValueError: a config field that is unknown or not accepted; when called, an input of the wrong name, rank,
            dtype or length, and ids out of range wherever the values are there to be looked at (eager calls, and
            NumPy data given to ``fit``, ``evaluate`` and ``predict``).
    """

    family: ClassVar[str]
    config_class: ClassVar[type[Config]]
    dialects: ClassVar[Mapping[str, Dialect]] = {}  # Hugging Face's checkpoints, by model_type, and "gguf"
    keras_hub_dialects: ClassVar[Mapping[str, Dialect]] = {}  # by the beginning of KerasHub's class names
    head_parts: ClassVar[tuple[str, ...]] = ()  # layers, and weights outside of layers, that a new head replaces
    tasks: ClassVar[Mapping[str | None, str]] = {None: "feature-extraction"}  # by the head, in Hugging Face's words
    blocks: list[Any]

    def __init__(
        self,
        config: Any = None,
        *,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        **overrides: Any,
    ) -> None:
        super().__init__(name=name or self.family, dtype=dtype, trainable=trainable)
        self._parent_path = ""  # names of weights begin at this model, wherever it is made; see ``weight_name``
        if config is not None and overrides:
            raise ValueError(f"config: got a config and fields {sorted(overrides)}; accepted: one or the other")
        if not isinstance(config, self.config_class | Mapping | None):
            raise ValueError(f"config: got {type(config).__name__}; accepted: {self.config_class.__name__} or a dict")
        given = overrides if config is None else config
        self.config: Any = self.config_class.from_dict(given) if isinstance(given, Mapping) else given
        self.tokenizer: Any = None  # a ``text.tokenizer.Tokenizer``, of whoever loaded one; ``save`` writes it too
        self.huggingface: dict[str, Any] = {}  # the config.json it was loaded with
        self.preprocessor: dict[str, Any] = {}  # the preprocessor_config.json beside it, for ``layers.ImageProcessor``
        self.sentences: dict[str, Any] = {}  # the sentence_bert_config.json beside it
        self.generation_config: dict[str, Any] = {}  # the generation_config.json beside it, for its end tokens
        # Weights of the file that no head asks for, such as a pooler, which ``to_huggingface`` writes again. They
        # belong to the body as it was loaded: training it, or putting another in its place, forgets them.
        self.unused: dict[str, np.ndarray] = {}
        self.build_layers()
        self.build(None)

    def build_layers(self) -> None:
        """Make the layers, of `self.config`."""
        raise NotImplementedError

    @property
    def signature(self) -> Signature:
        """Inputs and outputs by name: see ``signature.py``."""
        raise NotImplementedError

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        """Config overrides small enough for every test, one set per variant worth testing."""
        raise NotImplementedError

    def named_inputs(self, inputs: Any, signature: Signature | None = None) -> dict[str, Tensor]:
        """`inputs` as a dict of tensors, checked against `signature` (default: ``signature``)."""
        signature = signature or self.signature
        named = dict(inputs) if isinstance(inputs, Mapping) else {signature.inputs[0].name: inputs}
        named = {name: ops.convert_to_tensor(value) for name, value in named.items() if value is not None}
        signature.check_shapes(
            {name: (standardize_dtype(value.dtype), tuple(value.shape)) for name, value in named.items()}
        )
        for spec in signature.inputs:
            if spec.below is not None and spec.name in named:
                values = _concrete(named[spec.name])
                if values is not None:
                    spec.check_values(values)
        return named

    def run_blocks(
        self,
        blocks: Sequence[Any],
        x: Tensor,
        intermediates: Intermediates,
        *,
        cache: Any = None,
        encoder_key_values: Sequence[tuple[Tensor, Tensor]] | None = None,
        **arguments: Any,
    ) -> Tensor:
        """`x` through `blocks`, each of which gets `arguments`, and from these what is its own:

        Args:
            cache: of the keys and values of all blocks; see ``layers/cache.py``.
            encoder_key_values: of each block's cross-attention.
        """
        scores_wanted = intermediates.with_attentions
        recompute = self.gradient_checkpointing and arguments.get("training") and cache is None and not scores_wanted
        intermediates.hidden_states.append(x)
        for i, block in enumerate(blocks):
            own = dict(arguments)
            if cache is not None:
                own["cache"] = functools.partial(cache.update, i)
            if encoder_key_values is not None:
                own["encoder_key_value"] = encoder_key_values[i]
            if recompute:
                x = checkpointed(block, x, own)
            elif scores_wanted:
                x, scores, *cross_scores = block(x, return_attention_scores=True, **own)
                intermediates.attentions.append(scores)
                intermediates.cross_attentions += cross_scores
            else:
                x = block(x, **own)
            intermediates.hidden_states.append(x)
        return x

    def finish(self, result: Any, *intermediates: Mapping[str, Any]) -> Any:
        """`result` alone, or in a dict with the intermediates where there are any."""
        if not any(intermediates):
            return result
        named = dict(result) if isinstance(result, Mapping) else {self.signature.outputs[0].name: result}
        for some in intermediates:
            named |= some
        return named

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        """The functions that make up an exported file, by name.

        Args:
            kind: "plain", one call without memory; where the model generates also "dynamic", whose caches get longer
                with every call, and "static", whose caches have slots.

        Raises:
            ValueError: a kind this model does not have.
        """
        if kind != "plain":
            raise ValueError(f"model: got {self.name} without logits to generate from; accepted: one that generates")
        return {"model": Graph(self.signature.exported(), self.by_name)}

    def named_weights(self) -> dict[str, Any]:
        """Every weight by its name."""
        return by_name(self)

    @property
    def task(self) -> str | None:
        """What it is for, as Hugging Face calls it: "text-generation", "image-classification", …"""
        return self.tasks[getattr(self.config, "head", None)]

    @property
    def generates(self) -> bool:
        """Is there a ``generate``, and are there graphs with a memory?"""
        return False

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The results of a call by the names of ``signature.outputs``."""
        result = self(dict(inputs), training=False)
        outputs = self.signature.outputs
        if not isinstance(result, Mapping):
            return {outputs[0].name: result}
        return {spec.name: result[spec.name] for spec in outputs}

    @classmethod
    def of_head(cls, name: str) -> bool:
        """Does the weight of this name belong to the head?"""
        return name.partition("/")[0] in cls.head_parts

    def transfer_weights(self, source: keras.Model) -> list[str]:
        """Copy every weight of `source` that has the same name and shape here: a body under a new head.

        Returns:
            Names of this model's weights that were not filled.

        Raises:
            ValueError: nothing fits, or a name fits and its shape does not.
        """
        merged = source.merged_weights() if isinstance(source, ZooModel) else None
        theirs = dict(merged or by_name(source))
        shared = {name: variable for variable in self.weights if (name := weight_name(variable)) in theirs}
        if not shared:
            raise ValueError(f"source: got {source.name}, of which no weight has a name of {self.name}'s")
        for name, variable in shared.items():  # all are checked before any is changed
            if tuple(theirs[name].shape) != tuple(variable.shape):
                raise ValueError(
                    f"source: {name} has shape {tuple(theirs[name].shape)}; accepted: {tuple(variable.shape)}"
                )
        for name, variable in shared.items():
            variable.assign(theirs[name])
        self.unused = {}
        return [name for variable in self.weights if (name := weight_name(variable)) not in shared]

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(plain_inputs(inputs, self.signature.inputs[0].name), *args, **kwargs)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        x = self._checked(x)
        self._check_optimizer()
        if any(not self.of_head(weight_name(variable)) for variable in self.trainable_weights):
            self.unused = {}
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        x = self._checked(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        x = self._checked(x)
        return super().predict(x, *args, **kwargs)

    def _checked(self, x: Any) -> Any:
        """Data as Keras takes it; checked where they are arrays, or None."""
        signature = self.signature
        x = plain_inputs(x, signature.inputs[0].name)
        if isinstance(x, Mapping):
            x = {name: array for name, array in x.items() if array is not None}
        arrays = x if isinstance(x, Mapping) else {} if x is None else {signature.inputs[0].name: x}
        if all(isinstance(array, np.ndarray) for array in arrays.values()):
            signature.check_arrays(arrays)
        return x

    def save_assets(self, folder: str) -> None:
        """Called by Keras for what a ``.keras`` file has beside config and weights."""
        save_companions(self, Path(folder))

    def load_assets(self, folder: str | None) -> None:
        """As ``save_assets``; files of before have none."""
        if folder is not None:
            load_companions(self, Path(folder))

    def get_config(self) -> dict[str, Any]:
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        own = {"name": self.name, "trainable": self.trainable, "dtype": policy}
        return {**own, **self.config.to_dict(), **self.fine_tuning_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        fields = dict(config)
        fine_tuning = fields.pop("fine_tuning", None)
        model = cls(**fields)
        if fine_tuning:
            model.restore_fine_tuning(fine_tuning)
        return model


def _concrete(tensor: Tensor) -> np.ndarray | None:
    """The values, or None while tracing."""
    try:
        return np.asarray(tensor)
    except Exception:  # each backend refuses in its own way to read a tensor that has no value yet
        return None
