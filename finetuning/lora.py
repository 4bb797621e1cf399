"""Low-rank adapters on a model's dense and embedding layers.

The adapters are Keras' own (``Dense.enable_lora``); what is here chooses their layers, merges them for saving and
export, and keeps them in a file of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import ops

from ..checks import positive_integer, positive_number
from ..files import written
from ..weights.rules import weight_name
from .freezing import Freezing, Parameters, listed, matches

Tensor = Any
METADATA = "attention_zoo.lora"  # the key in the file's header


@dataclass(frozen=True)
class Adapters:
    """What ``enable_lora`` did: the layers' paths, and which weights were frozen before."""

    rank: int
    alpha: float
    layers: tuple[str, ...]
    frozen_before: tuple[str, ...]


class LowRankAdapters(Freezing):
    """Adapters on a model.

    Attributes:
        task_layers: names of this family's layers that a new task brings: trained whole beside adapters.
        shared_task_layers: names of layers that are trained along with those where there are any, and not where there
            are none.
    """

    family: ClassVar[str]
    task_layers: ClassVar[tuple[str, ...]] = ()
    shared_task_layers: ClassVar[tuple[str, ...]] = ()
    _adapters: Adapters | None = None

    @property
    def lora(self) -> Adapters | None:
        """The adapters that are on, or None."""
        return self._adapters

    # ---- on and off -----------------------------------------------------------------------------------------------

    def enable_lora(
        self,
        rank: int,
        *,
        targets: str | Sequence[str] = ("query", "value"),
        alpha: float | None = None,
        also_train: str | Sequence[str] | None = None,
    ) -> Parameters:
        """Train ``W + alpha / rank · A B`` in place of W, with A (in, rank) and B (rank, out), and freeze the rest.

        Hu et al. 2021 (arXiv:2106.09685): A starts random (He uniform), B with zeros, so that nothing changes at first;
        `targets` are their choice. The adapters are float32 under every dtype policy. Call it before ``compile`` or
        after it; a model that has already been fitted must be compiled again, which ``fit`` says. A tied token table
        ("embedding") stays tied. ``.keras`` files keep the adapters; folders and exports get merged weights.

        Args:
            rank: columns of A and rows of B.
            targets: names of dense or embedding layers ("query", "key", "value", "output", "up", "gate", "down",
                "embedding", …), or shell patterns over their paths ("block_*/attention/*").
            alpha: see above. Default: `rank`.
            also_train: patterns of weights that are trained whole, as PEFT's `modules_to_save`; they get no adapters.
                Default: the layers that a new task brings, such as a classifier (`task_layers`), and those that are
                trained along with them (`shared_task_layers`); where there is none of the first, nothing.

        Raises:
            ValueError: a pattern that matches nothing, a rank or alpha that is not positive, or adapters that are on.
        """
        if self._adapters is not None:
            raise ValueError(
                f"rank: got {rank} for a model with adapters of rank {self._adapters.rank}; accepted: a model without "
                "adapters, which merge_lora makes of it"
            )
        rank = positive_integer("rank", rank)
        alpha = positive_number("alpha", rank if alpha is None else alpha)
        whole = self._trained_whole(also_train)
        layers = self._lora_targets(listed(targets), whole)
        self._add_adapters(Adapters(rank, float(alpha), tuple(layers), tuple(self._frozen_names())))
        for variable in self.weights:
            name = weight_name(variable)
            variable.trainable = name in whole or is_adapter(name)
        self._changed()
        return self.parameter_counts

    def _trained_whole(self, patterns: str | Sequence[str] | None) -> set[str]:
        """Names of the weights that are trained beside the adapters."""
        if patterns is not None:
            return set(self._matching("also_train", listed(patterns)))
        names = [weight_name(variable) for variable in self.weights]
        own = {name for name in names if matches(name, self.task_layers)}
        shared = {name for name in names if matches(name, self.shared_task_layers)}
        return own | shared if own else set()

    def _lora_targets(self, targets: Iterable[str], whole: set[str]) -> list[str]:
        dense = _dense_layers(self)
        layers = {path: layer for path, layer in dense.items() if weight_name(base_weight(layer)) not in whole}
        chosen: dict[str, None] = {}
        for target in targets:
            found = [path for path in layers if matches(path, target) or fnmatchcase(path.rpartition("/")[2], target)]
            if not found:
                names = sorted({path.rpartition("/")[2] for path in layers})
                raise ValueError(
                    f"targets: got {target!r}, which matches no layer that takes an adapter; accepted: some of "
                    f"{names}, or shell patterns over the paths of such layers"
                )
            chosen |= dict.fromkeys(found)
        return list(chosen)

    def _add_adapters(self, adapters: Adapters) -> None:
        for layer in self._adapted(adapters):
            layer.enable_lora(adapters.rank, lora_alpha=adapters.alpha)
        self._adapters = adapters

    def _adapted(self, adapters: Adapters) -> list[Any]:
        layers = _dense_layers(self)
        return [layers[path] for path in adapters.layers]

    def merge_lora(self) -> Parameters:
        """Write ``W + alpha / rank · A B`` into each W and take the adapters away: the same results, with the names and
        shapes of before ``enable_lora``. What was trainable then is so again.

        Raises:
            ValueError: a model without adapters.
        """
        adapters = self._with_adapters()
        for layer in self._adapted(adapters):
            _merge(layer)
        self._adapters = None
        self._freeze_only(adapters.frozen_before)
        self._changed()
        return self.parameter_counts

    def _with_adapters(self) -> Adapters:
        if self._adapters is None:
            raise ValueError(f"model: got {self.name} without adapters; accepted: one after enable_lora")
        return self._adapters

    # ---- for files that know no adapters --------------------------------------------------------------------------

    def merged_weights(self, dtype: str | None = None) -> Iterator[tuple[str, Any]]:
        """Every weight's name and value as after ``merge_lora``, what was merged in `dtype` or by default in its own;
        the model stays as it is."""
        adapted = {weight_name(base_weight(layer)): layer for layer in with_adapters(self)}
        for variable in self.weights:
            name = weight_name(variable)
            if not is_adapter(name):
                yield name, merged(adapted[name], dtype) if name in adapted else variable

    def without_adapters(self) -> Any:
        """A copy with merged weights, or the model itself where there are no adapters."""
        if not with_adapters(self):
            return self
        model: Any = self
        twin = type(model)(model.config, name=model.name, dtype=model.dtype_policy)
        twin.transfer_weights(model)
        return twin

    # ---- in a file of their own -----------------------------------------------------------------------------------

    def save_lora(self, path: str | os.PathLike[str]) -> Path:
        """Write what is trained, the adapters and the head, as one safetensors file; ``load_lora`` reads it back.

        Raises:
            ValueError: a model without adapters.
        """
        from safetensors.numpy import save_file

        adapters = self._with_adapters()
        tensors = {weight_name(v): np.ascontiguousarray(ops.convert_to_numpy(v)) for v in self.weights if v.trainable}
        metadata = {"family": self.family, "rank": adapters.rank, "alpha": adapters.alpha, "layers": adapters.layers}
        with written(path) as temporary:
            save_file(tensors, temporary, metadata={METADATA: json.dumps(metadata)})
        return Path(path)

    def load_lora(self, path: str | os.PathLike[str]) -> Parameters:
        """Put the adapters and the head of a file that ``save_lora`` wrote on this model, which has the weights they
        were trained on. The head's weights are replaced.

        Raises:
            ValueError: a model that has adapters, another file, or one that does not fit.
        """
        if self._adapters is not None:
            raise ValueError("path: got a file for a model that has adapters; accepted: one without, see merge_lora")
        accepted = "accepted: a file that save_lora wrote for such a model"
        try:
            file = _read(path)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path: got {path}, which cannot be read: {error}; {accepted}") from error
        if problems := self._misfits(file):  # everything is checked before anything changes
            raise ValueError(f"path: got {path}, which does not fit: {'; '.join(problems[:8])}; {accepted}")
        self._add_adapters(Adapters(file.rank, file.alpha, file.layers, tuple(self._frozen_names())))
        for variable in self.weights:
            name = weight_name(variable)
            variable.trainable = name in file.tensors
            if name in file.tensors:
                variable.assign(file.tensors[name])
        self._changed()
        return self.parameter_counts

    def _misfits(self, file: _AdapterFile) -> list[str]:
        """What keeps the adapters and the head of `file` from this model."""
        dense, shapes = _dense_layers(self), {weight_name(v): tuple(v.shape) for v in self.weights}
        for layer in file.layers:
            if layer in dense:
                rows, columns = base_weight(dense[layer]).shape
                kind = "embeddings" if isinstance(dense[layer], keras.layers.Embedding) else "kernel"
                shapes[f"{layer}/lora_{kind}_a"] = (rows, file.rank)
                shapes[f"{layer}/lora_{kind}_b"] = (file.rank, columns)
        expected = {name for name in shapes if is_adapter(name)}
        return [
            *(f"{name} is not in {self.name}" for name in sorted({*file.layers} - {*dense})),
            *(f"missing {name}" for name in sorted(expected - {*file.tensors})),
            *(
                f"{name} has shape {tensor.shape} for {shapes.get(name)}"
                for name, tensor in sorted(file.tensors.items())
                if tensor.shape != shapes.get(name)
            ),
        ]


class _AdapterFile(NamedTuple):
    rank: int
    alpha: float
    layers: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]


def _read(path: str | os.PathLike[str]) -> _AdapterFile:
    """What ``save_lora`` wrote; an error of any kind where it is another file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(error) from error
    return _AdapterFile(int(metadata["rank"]), float(metadata["alpha"]), tuple(metadata["layers"]), tensors)


def with_adapters(model: Any) -> list[Any]:
    """The layers that have an adapter, by ``enable_lora`` of the model or of the layer itself."""
    return [layer for layer in model._flatten_layers(include_self=False) if getattr(layer, "lora_enabled", False)]


def is_adapter(name: str) -> bool:
    return name.rpartition("/")[2] in (f"lora_{kind}_{part}" for kind in ("kernel", "embeddings") for part in "ab")


def _dense_layers(model: Any) -> dict[str, Any]:
    """The layers that take an adapter, by their paths."""
    kinds = keras.layers.Dense | keras.layers.Embedding
    found = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kinds)]
    return {weight_name(base_weight(layer)).rpartition("/")[0]: layer for layer in found}


def base_weight(layer: Any) -> Any:
    """The kernel or table itself, which ``layer.kernel`` is not where there is an adapter."""
    return next(variable for variable in layer.weights if variable.name in ("kernel", "embeddings"))


def merged(layer: Any, dtype: str | None = None) -> Tensor:
    """W + alpha / rank · A B, computed in float32 and given in `dtype`, by default W's."""
    named = {variable.name.rpartition("_")[2]: variable for variable in layer.weights if is_adapter(variable.name)}
    delta = ops.matmul(ops.cast(named["a"], "float32"), ops.cast(named["b"], "float32"))
    base = base_weight(layer)
    return ops.cast(ops.cast(base, "float32") + (layer.lora_alpha / layer.lora_rank) * delta, dtype or base.dtype)


def _merge(layer: Any) -> None:
    """Keras adds adapters and has nothing that takes them away."""
    base_weight(layer).assign(merged(layer))
    for variable in [v for v in layer.weights if is_adapter(v.name)]:
        layer._untrack_variable(variable)
        setattr(layer, variable.name, None)
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
