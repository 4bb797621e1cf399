"""Low-rank adapters (LoRA) for the dense and embedding layers of a model.

The adapters are those of Keras (``Dense.enable_lora``). This module selects the layers, merges the adapters for saving
and export, and stores adapters in separate files.
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
from ..weights.placement import whole
from ..weights.rules import weight_name
from .freezing import Freezing, Parameters, listed, matches

Tensor = Any
METADATA = "attention_zoo.lora"  # key of the metadata in the header of a safetensors file


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model, as ``enable_lora`` created them.

    Attributes:
        rank: rank of the adapters.
        alpha: scale of the adapters; their output is multiplied by ``alpha / rank``.
        layers: paths of the layers that have an adapter.
        frozen_before: names of the weights that were frozen before the adapters were created.
    """

    rank: int
    alpha: float
    layers: tuple[str, ...]
    frozen_before: tuple[str, ...]


class LowRankAdapters(Freezing):
    """Mixin for models that adds low-rank adapters.

    Attributes:
        task_layers: names of the layers that are specific to a task, such as a classifier. They are trained fully
            along with the adapters.
        shared_task_layers: names of layers that are also trained fully if the model has any of `task_layers`.
    """

    family: ClassVar[str]
    task_layers: ClassVar[tuple[str, ...]] = ()
    shared_task_layers: ClassVar[tuple[str, ...]] = ()
    _adapters: Adapters | None = None

    @property
    def lora(self) -> Adapters | None:
        """The adapters of the model, or None."""
        return self._adapters

    # ---- creating and merging adapters ------------------------------------------------------------------------------

    def enable_lora(
        self,
        rank: int,
        *,
        targets: str | Sequence[str] = ("query", "value"),
        alpha: float | None = None,
        also_train: str | Sequence[str] | None = None,
    ) -> Parameters:
        """Add low-rank adapters to layers and freeze all other weights (LoRA; Hu et al. 2021, arXiv:2106.09685).

        An adapted layer uses ``W + alpha / rank · A B`` instead of its weight W (in, out), with the trainable matrices
        A (in, rank) and B (rank, out). A is initialized randomly (He uniform) and B with zeros, so the model's outputs
        do not change at first. The adapters are float32 under every dtype policy. A tied embedding table stays tied.

        The method may be called before or after ``compile``. A model that has already been fitted must be compiled
        again; otherwise ``fit`` raises an error. ``.keras`` files store the adapters; folders and exported files get
        merged weights.

        Args:
            rank: number of columns of A and rows of B.
            targets: names of dense or embedding layers ("query", "key", "value", "output", "up", "gate", "down",
                "embedding", …), or shell patterns over their paths ("block_*/attention/*"). Default: the choice of the
                paper.
            alpha: scale of the adapters, see above. Default: `rank`.
            also_train: patterns of weights that are trained fully and get no adapters, as PEFT's `modules_to_save`.
                Default: the layers that are specific to a task, such as a classifier (`task_layers`), and if there
                are any, also `shared_task_layers`.

        Returns:
            The numbers of trainable parameters and of all parameters.

        Raises:
            ValueError: a pattern that matches nothing, a rank or alpha that is not positive, or a model that already
                has adapters.
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
        """Return the names of the weights that are trained fully along with the adapters; see ``enable_lora``."""
        if patterns is not None:
            return set(self._matching("also_train", listed(patterns)))
        names = [weight_name(variable) for variable in self.weights]
        own = {name for name in names if matches(name, self.task_layers)}
        shared = {name for name in names if matches(name, self.shared_task_layers)}
        return own | shared if own else set()

    def _lora_targets(self, targets: Iterable[str], whole: set[str]) -> list[str]:
        """Return the paths of the layers that match `targets` and whose weights are not in `whole`."""
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
        """Merge the adapters into the weights, ``W + alpha / rank · A B``, and remove them.

        The model computes the same outputs. Its weights have the same names and shapes as before ``enable_lora``, and
        the same weights are trainable.

        Returns:
            The numbers of trainable parameters and of all parameters.

        Raises:
            ValueError: the model has no adapters.
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

    # ---- merged weights, for file formats without adapters ----------------------------------------------------------

    def merged_weights(self, dtype: str | None = None) -> Iterator[tuple[str, Any]]:
        """Yield the name and value of every weight as ``merge_lora`` would leave it, without changing the model.

        Args:
            dtype: dtype of the merged weights. Default: that of each weight. Weights without adapters are not cast.
        """
        adapted = {weight_name(base_weight(layer)): layer for layer in with_adapters(self)}
        for variable in self.weights:
            name = weight_name(variable)
            if not is_adapter(name):
                yield name, merged(adapted[name], dtype) if name in adapted else variable

    def without_adapters(self) -> Any:
        """Return a copy of the model with merged weights, or the model itself if it has no adapters."""
        if not with_adapters(self):
            return self
        model: Any = self
        twin = type(model)(model.config, name=model.name, dtype=model.dtype_policy)
        twin.transfer_weights(model)
        return twin

    # ---- adapter files ----------------------------------------------------------------------------------------------

    def save_lora(self, path: str | os.PathLike[str]) -> Path:
        """Write the trainable weights (the adapters and the head) to a safetensors file, which ``load_lora`` reads.

        Returns:
            The path of the file.

        Raises:
            ValueError: the model has no adapters.
        """
        from safetensors.numpy import save_file

        adapters = self._with_adapters()
        tensors = {weight_name(v): np.asarray(whole(v), order="C") for v in self.weights if v.trainable}
        metadata = {"family": self.family, "rank": adapters.rank, "alpha": adapters.alpha, "layers": adapters.layers}
        with written(path) as temporary:
            save_file(tensors, temporary, metadata={METADATA: json.dumps(metadata)})
        return Path(path)

    def load_lora(self, path: str | os.PathLike[str]) -> Parameters:
        """Load the adapters and the head from a file that ``save_lora`` wrote.

        The model must have the weights that the adapters were trained with. The weights of its head are replaced.

        Returns:
            The numbers of trainable parameters and of all parameters.

        Raises:
            ValueError: the model already has adapters, or the file is of another kind or does not fit the model.
        """
        if self._adapters is not None:
            raise ValueError("path: got a file for a model that has adapters; accepted: one without, see merge_lora")
        accepted = "accepted: a file that save_lora wrote for such a model"
        try:
            file = _read(path)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path: got {path}, which cannot be read: {error}; {accepted}") from error
        if problems := self._misfits(file):  # check everything before the model is changed
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
        """Return the reasons why the adapters and the head of `file` do not fit this model."""
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
    """The contents of an adapter file; `tensors` has the trained weights by name."""

    rank: int
    alpha: float
    layers: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]


def _read(path: str | os.PathLike[str]) -> _AdapterFile:
    """Read a file that ``save_lora`` wrote.

    Raises:
        OSError, KeyError, TypeError, ValueError: it is not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(error) from error
    return _AdapterFile(int(metadata["rank"]), float(metadata["alpha"]), tuple(metadata["layers"]), tensors)


def with_adapters(model: Any) -> list[Any]:
    """Return the layers that have an adapter, whether the model's or the layer's own ``enable_lora`` created it."""
    return [layer for layer in model._flatten_layers(include_self=False) if getattr(layer, "lora_enabled", False)]


def is_adapter(name: str) -> bool:
    """Return whether the weight with this name is a part of an adapter."""
    return name.rpartition("/")[2] in (f"lora_{kind}_{part}" for kind in ("kernel", "embeddings") for part in "ab")


def _dense_layers(model: Any) -> dict[str, Any]:
    """Return the layers that can have an adapter, dense and embedding layers, by path."""
    kinds = keras.layers.Dense | keras.layers.Embedding
    found = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kinds)]
    return {weight_name(base_weight(layer)).rpartition("/")[0]: layer for layer in found}


def base_weight(layer: Any) -> Any:
    """Return the kernel or embedding table itself; ``layer.kernel`` includes the adapter if there is one."""
    return next(variable for variable in layer.weights if variable.name in ("kernel", "embeddings"))


def merged(layer: Any, dtype: str | None = None) -> Tensor:
    """Return ``W + alpha / rank · A B``, computed in float32 and cast to `dtype`, by default that of W."""
    named = {variable.name.rpartition("_")[2]: variable for variable in layer.weights if is_adapter(variable.name)}
    delta = ops.matmul(ops.cast(named["a"], "float32"), ops.cast(named["b"], "float32"))
    base = base_weight(layer)
    return ops.cast(ops.cast(base, "float32") + (layer.lora_alpha / layer.lora_rank) * delta, dtype or base.dtype)


def _merge(layer: Any) -> None:
    """Merge the adapter of `layer` into its weight and remove it, for which Keras has no method."""
    base_weight(layer).assign(merged(layer))
    for variable in [v for v in layer.weights if is_adapter(v.name)]:
        layer._untrack_variable(variable)
        setattr(layer, variable.name, None)
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
