"""What every family shares: a checked config, checked inputs, and Keras' own saving."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from ..finetuning.model import FineTuning, checkpointed
from ..signature import Graph, Signature
from ..weights.rules import weight_name

Tensor = Any


@dataclass(frozen=True)
class Config:
    """A family's sizes and choices. One vocabulary for all: see the fields of ``GPTConfig``."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A config of these values and defaults for the rest.

        Raises:
            ValueError: a field this family does not have, or a value it does not accept.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"{cls.__name__}: got unknown fields {unknown}; accepted: {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: got {value!r}; accepted: a positive integer")

    def _choice(self, name: str, accepted: tuple[Any, ...]) -> None:
        if getattr(self, name) not in accepted:
            raise ValueError(f"{name}: got {getattr(self, name)!r}; accepted: {list(accepted)}")

    def _rates(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{name}: got {value!r}; accepted: a number from 0 up to, not including, 1")

    def _tokens(self, *names: str, required: bool = False, several: bool = False) -> None:
        below = self.to_dict()["vocab_size"]

        def is_token(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below

        for name in names:
            value = getattr(self, name)
            if several and isinstance(value, list | tuple) and value and all(map(is_token, value)):
                object.__setattr__(self, name, tuple(value))
            elif not is_token(value) and (required or value is not None):
                accepted = f"a token from 0 to {below - 1}" + (", several of them" if several else "")
                raise ValueError(f"{name}: got {value!r}; accepted: {accepted}{'' if required else ', or None'}")

    def _divides(self, part: str, whole: str) -> None:
        if getattr(self, whole) % getattr(self, part):
            raise ValueError(
                f"{part}: got {getattr(self, part)}; accepted: a divisor of {whole}={getattr(self, whole)}"
            )

    def _default(self, name: str, value: Any) -> None:
        """Fill a field that was left None from others (the dataclass is frozen for everybody else)."""
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)


class ZooModel(keras.Model, FineTuning):
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
    dialects: ClassVar[Mapping[str, Any]] = {}  # how others' checkpoints say it, by model_type; see zoo/weights.py
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
        if config is not None and overrides:
            raise ValueError(f"config: got a config and fields {sorted(overrides)}; accepted: one or the other")
        if not isinstance(config, self.config_class | Mapping | None):
            raise ValueError(f"config: got {type(config).__name__}; accepted: {self.config_class.__name__} or a dict")
        given = overrides if config is None else config
        self.config: Any = self.config_class.from_dict(given) if isinstance(given, Mapping) else given
        self.tokenizer: Any = None  # a zoo.tokenizers.Tokenizer, of whoever loaded one; ``save`` writes it too
        self.huggingface: dict[str, Any] = {}  # the config.json it was loaded with
        self.preprocessor: dict[str, Any] = {}  # the preprocessor_config.json beside it, for ``layers.ImageProcessor``
        self.build_layers()
        self.build(None)

    def build_layers(self) -> None:
        """Make the layers, of `self.config`."""
        raise NotImplementedError

    @property
    def signature(self) -> Signature:
        """Inputs and outputs by name: see ``zoo/signature.py``."""
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
        x: Tensor,
        output_hidden_states: bool,
        output_attentions: bool,
        cache: Any = None,
        *,
        blocks: Sequence[Any] | None = None,
        each: Sequence[Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
        """`x` through `blocks`, and the intermediates that were asked for, by name.

        Args:
            cache: gives every block its keys and values; see ``layers/cache.py``.
            blocks: default ``self.blocks``.
            each: arguments of each block alone; `arguments` are for all.
        """
        blocks = self.blocks if blocks is None else blocks
        states, attentions = [x], []
        for i, block in enumerate(blocks):
            own = dict(each[i]) if each else {}
            if cache is not None:
                own["cache"] = functools.partial(cache.update, i)
            if self.gradient_checkpointing and arguments.get("training") and cache is None and not output_attentions:
                x = checkpointed(block, x, {**arguments, **own})
            else:
                x = block(x, return_attention_scores=output_attentions, **arguments, **own)
            if output_attentions:
                x, *scores = x
                attentions.append(scores)
            states.append(x)
        asked: dict[str, tuple[Tensor, ...]] = {"hidden_states": tuple(states)} if output_hidden_states else {}
        if output_attentions:
            kinds = ("attentions", "cross_attentions")[: len(attentions[0])]
            asked |= dict(zip(kinds, zip(*attentions, strict=True), strict=True))
        return x, asked

    def finish(self, result: Any, intermediates: Mapping[str, Any]) -> Any:
        """`result` alone, or in a dict with the intermediates where there are any."""
        if not intermediates:
            return result
        named = result if isinstance(result, Mapping) else {self.signature.outputs[0].name: result}
        return {**named, **intermediates}

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

    def transfer_weights(self, source: keras.Model) -> list[str]:
        """Copy every weight of `source` that has the same name and shape here: a body under a new head.

        Returns:
            Names of this model's weights that were not filled.

        Raises:
            ValueError: nothing fits, or a name fits and its shape does not.
        """
        merged = source.merged_weights() if isinstance(source, ZooModel) else None
        theirs = dict(merged or ((weight_name(variable), variable) for variable in source.weights))
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
        return [name for variable in self.weights if (name := weight_name(variable)) not in shared]

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._check_data(x)
        self._check_optimizer()
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._check_data(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        self._check_data(x)
        return super().predict(x, *args, **kwargs)

    def _check_data(self, x: Any) -> None:
        signature = self.signature
        arrays = x if isinstance(x, Mapping) else {signature.inputs[0].name: x}
        if all(isinstance(array, np.ndarray) for array in arrays.values()):
            signature.check_arrays(arrays)

    def get_config(self) -> dict[str, Any]:
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        own = {"name": self.name, "trainable": self.trainable, "dtype": policy}
        return {**own, **self.config.to_dict(), **self.fine_tuning_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        fields = dict(config)
        state = fields.pop("fine_tuning", None)
        model = cls(**fields)
        if state:
            model.restore_fine_tuning(state)
        return model


def _concrete(tensor: Tensor) -> np.ndarray | None:
    """The values, or None while tracing."""
    try:
        return np.asarray(tensor)
    except Exception:  # each backend refuses in its own way to read a tensor that has no value yet
        return None
