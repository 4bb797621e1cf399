"""Fine-tuning: low-rank adapters, frozen parts, learning rates by depth, gradient checkpointing.

Every model has these as methods. The adapters are Keras' own (``Dense.enable_lora``); what is here chooses their
layers, merges them for saving and export, and keeps all of it through ``.keras`` files.

Warm-up and cosine decay are ``keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate,
warmup_steps=…)``; warm-up and linear decay, which Keras lacks, is :class:`WarmupLinearDecay`.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from ..files import written
from ..weights.rules import weight_name

Tensor = Any
# Of a new task: they are trained whole beside adapters.
HEADS = ("classifier", "distillation_classifier", "span", "pooler")
STACKS = ("blocks", "encoder_blocks", "decoder_blocks")
DRAWS = 16  # more than the dropout masks that one block draws from one generator


class Parameters(NamedTuple):
    """How many numbers of a model are trained, and how many it has."""

    trainable: int
    total: int


@dataclass(frozen=True)
class Adapters:
    """What ``enable_lora`` did: the layers' paths, and which weights were frozen before."""

    rank: int
    alpha: float
    layers: tuple[str, ...]
    frozen_before: tuple[str, ...]


class FineTuning:
    """Methods of every model.

    Patterns are those of a shell, and ``*`` takes any part of a path, slashes included. A pattern means the weights
    whose name it matches, and those of layers whose path it matches: "block_0" and "block_0/*" are the same weights,
    "*/bias" all biases.
    """

    name: str
    family: ClassVar[str]
    weights: list[Any]
    optimizer: Any
    compiled: bool
    _adapters: Adapters | None = None
    _checkpointing = False
    _outdated: Any = None

    # ---- what is trained ------------------------------------------------------------------------------------------

    @property
    def parameter_counts(self) -> Parameters:
        """Counts of the trained and of all parameters, adapters included."""
        sizes = [(variable.trainable, _size(variable)) for variable in self.weights]
        return Parameters(sum(size for trained, size in sizes if trained), sum(size for _, size in sizes))

    def freeze(self, *patterns: str) -> int:
        """Train the weights that match `patterns` no more: ``model.freeze("embedding*", "block_[0-3]/*")``.

        Works before ``compile`` and after it; a model that has already been fitted must be compiled again, which
        ``fit`` says. ``.keras`` files keep it, ``save`` to a folder does not.

        Returns:
            how many weights (tensors) matched.

        Raises:
            ValueError: no pattern, or one that matches nothing.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> int:
        """Train the weights that match `patterns` again. As :meth:`freeze`; ``unfreeze("*")`` is everything."""
        return self._set_trainable(patterns, True)

    def _set_trainable(self, patterns: Sequence[str], trainable: bool) -> int:
        if not patterns:
            raise ValueError('patterns: got none; accepted: at least one, such as "embedding*" or "block_[0-3]/*"')
        chosen = self._matching("patterns", patterns)
        for variable in chosen:
            variable.trainable = trainable
        self._changed()
        return len(chosen)

    def _matching(self, argument: str, patterns: Iterable[str]) -> list[Any]:
        """The weights that a pattern matches, each once; a pattern without any is an error."""
        named = {weight_name(variable): variable for variable in self.weights}
        chosen: dict[str, Any] = {}
        for pattern in patterns:
            found = {name: variable for name, variable in named.items() if _matches(name, pattern)}
            if not found:
                accepted = sorted({name.partition("/")[0] for name in named})
                raise ValueError(
                    f"{argument}: got {pattern!r}, which matches no weight of {self.name}; accepted: a shell pattern "
                    f"of a path that begins with one of {accepted}"
                )
            chosen |= found
        return list(chosen.values())

    def _changed(self) -> None:
        """Forget what was compiled for other weights."""
        model: Any = self
        model.train_function = model.test_function = model.predict_function = None
        model.__dict__.pop("_steps", None)  # of ``generate``
        if self.compiled and self.optimizer is not None and self.optimizer.built:
            self._outdated = weakref.ref(self.optimizer)

    def _check_optimizer(self) -> None:
        if self._outdated is not None and self._outdated() is self.optimizer:
            raise ValueError(
                "optimizer: got one that was built for other trainable weights, before freeze, unfreeze, enable_lora "
                "or merge_lora; accepted: a new one, by model.compile"
            )

    # ---- low-rank adapters ----------------------------------------------------------------------------------------

    @property
    def lora(self) -> Adapters | None:
        """The adapters that are on, or None."""
        return self._adapters

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
                Default: the classifier or other head of a new task, and the pooler below it; where there is no such
                head, nothing.

        Raises:
            ValueError: a pattern that matches nothing, a rank or alpha that is not positive, or adapters that are on.
        """
        if self._adapters is not None:
            raise ValueError(
                f"rank: got {rank} for a model with adapters of rank {self._adapters.rank}; accepted: a model without "
                "adapters, which merge_lora makes of it"
            )
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ValueError(f"rank: got {rank!r}; accepted: a positive integer")
        alpha = rank if alpha is None else alpha
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
            raise ValueError(f"alpha: got {alpha!r}; accepted: a positive number, or None for the rank")
        whole = self._trained_whole(also_train)
        layers = self._lora_targets((targets,) if isinstance(targets, str) else targets, whole)
        frozen = tuple(weight_name(variable) for variable in self.weights if not variable.trainable)
        self._add_adapters(Adapters(rank, float(alpha), tuple(layers), frozen))
        for variable in self.weights:
            name = weight_name(variable)
            variable.trainable = name in whole or _is_adapter(name)
        self._changed()
        return self.parameter_counts

    def _trained_whole(self, patterns: str | Sequence[str] | None) -> set[str]:
        """Names of the weights that are trained beside the adapters."""
        if patterns is None:
            found = {weight_name(v) for v in self.weights if _matches(weight_name(v), HEADS)}
            return found if any(not name.startswith("pooler/") for name in found) else set()
        return {weight_name(v) for v in self._matching("also_train", _listed(patterns))}

    def _lora_targets(self, targets: Iterable[str], whole: set[str]) -> list[str]:
        layers = {path: layer for path, layer in _dense_layers(self).items() if weight_name(_base(layer)) not in whole}
        chosen: dict[str, None] = {}
        for target in targets:
            found = [path for path in layers if _matches(path, target) or fnmatchcase(path.rpartition("/")[2], target)]
            if not found:
                names = sorted({path.rpartition("/")[2] for path in layers})
                raise ValueError(
                    f"targets: got {target!r}, which matches no layer that takes an adapter; accepted: some of "
                    f"{names}, or shell patterns over the paths of such layers"
                )
            chosen |= dict.fromkeys(found)
        return list(chosen)

    def _add_adapters(self, adapters: Adapters) -> None:
        layers = _dense_layers(self)
        for path in adapters.layers:
            layers[path].enable_lora(adapters.rank, lora_alpha=adapters.alpha)
        self._adapters = adapters

    def merge_lora(self) -> Parameters:
        """Write ``W + alpha / rank · A B`` into each W and take the adapters away: the same results, with the names and
        shapes of before ``enable_lora``. What was trainable then is so again.

        Raises:
            ValueError: a model without adapters.
        """
        adapters = self._with_adapters()
        layers = _dense_layers(self)
        for path in adapters.layers:
            layer = layers[path]
            _base(layer).assign(_merged(layer))
            for variable in [v for v in layer.weights if _is_adapter(v.name)]:
                layer._untrack_variable(variable)
                setattr(layer, variable.name, None)
            layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
        self._adapters = None
        for variable in self.weights:
            variable.trainable = weight_name(variable) not in adapters.frozen_before
        self._changed()
        return self.parameter_counts

    def merged_weights(self) -> Iterator[tuple[str, Any]]:
        """Every weight's name and value as after ``merge_lora``, in its own dtype; the model stays as it is."""
        adapted = {} if self._adapters is None else _dense_layers(self)
        merged = {}
        for path in () if self._adapters is None else self._adapters.layers:
            merged[weight_name(_base(adapted[path]))] = adapted[path]
        for variable in self.weights:
            name = weight_name(variable)
            if not _is_adapter(name):
                yield name, _merged(merged[name]) if name in merged else variable

    def without_adapters(self) -> Any:
        """A copy with merged weights, or the model itself where there are no adapters: what a file is made of."""
        if self._adapters is None:
            return self
        model: Any = self
        twin = type(model)(model.config, name=model.name, dtype=model.dtype_policy)
        twin.transfer_weights(model)
        return twin

    def save_lora(self, path: str | os.PathLike[str]) -> Path:
        """Write what is trained, the adapters and the head, as one safetensors file; ``load_lora`` reads it back.

        Raises:
            ValueError: a model without adapters.
        """
        import numpy as np
        from safetensors.numpy import save_file

        adapters = self._with_adapters()
        tensors = {weight_name(v): np.ascontiguousarray(ops.convert_to_numpy(v)) for v in self.weights if v.trainable}
        told = {"family": self.family, "rank": adapters.rank, "alpha": adapters.alpha, "layers": adapters.layers}
        with written(path) as temporary:
            save_file(tensors, temporary, metadata={"attention_zoo.lora": json.dumps(told)})
        return Path(path)

    def load_lora(self, path: str | os.PathLike[str]) -> Parameters:
        """Put the adapters and the head of a file that ``save_lora`` wrote on this model, which has the weights they
        were trained on. The head's weights are replaced.

        Raises:
            ValueError: a model that has adapters, another file, or one that does not fit.
        """
        from safetensors import SafetensorError, safe_open

        if self._adapters is not None:
            raise ValueError("path: got a file for a model that has adapters; accepted: one without, see merge_lora")
        accepted = "accepted: a file that save_lora wrote for such a model"
        try:
            with safe_open(path, framework="numpy") as file:
                told = json.loads((file.metadata() or {})["attention_zoo.lora"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            rank, alpha, layers = int(told["rank"]), float(told["alpha"]), tuple(told["layers"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path: got {path}, which cannot be read: {error}; {accepted}") from error
        self._check_lora(path, rank, layers, tensors, accepted)
        frozen = tuple(weight_name(variable) for variable in self.weights if not variable.trainable)
        self._add_adapters(Adapters(rank, alpha, layers, frozen))
        for variable in self.weights:
            name = weight_name(variable)
            variable.trainable = name in tensors
            if name in tensors:
                variable.assign(tensors[name])
        self._changed()
        return self.parameter_counts

    def _check_lora(
        self, path: Any, rank: int, layers: Sequence[str], tensors: Mapping[str, Any], accepted: str
    ) -> None:
        """Everything is checked before anything changes."""
        dense, shapes = _dense_layers(self), {weight_name(v): tuple(v.shape) for v in self.weights}
        for layer in layers:
            if layer in dense:
                rows, columns = _base(dense[layer]).shape
                kind = "embeddings" if isinstance(dense[layer], keras.layers.Embedding) else "kernel"
                shapes |= {f"{layer}/lora_{kind}_a": (rows, rank), f"{layer}/lora_{kind}_b": (rank, columns)}
        expected = {name for name in shapes if _is_adapter(name)}
        problems = [f"{name} is not in {self.name}" for name in sorted({*layers} - {*dense})]
        problems += [f"missing {name}" for name in sorted(expected - {*tensors})]
        problems += [
            f"{name} has shape {tensor.shape} for {shapes.get(name)}"
            for name, tensor in sorted(tensors.items())
            if tensor.shape != shapes.get(name)
        ]
        if problems:
            raise ValueError(f"path: got {path}, which does not fit: {'; '.join(problems[:8])}; {accepted}")

    def _with_adapters(self) -> Adapters:
        if self._adapters is None:
            raise ValueError(f"model: got {self.name} without adapters; accepted: one after enable_lora")
        return self._adapters

    # ---- through Keras' files -------------------------------------------------------------------------------------

    def fine_tuning_config(self) -> dict[str, Any]:
        """What ``get_config`` adds: frozen weights and adapters, nothing where there is neither."""
        frozen = [weight_name(variable) for variable in self.weights if not variable.trainable]
        state: dict[str, Any] = {"frozen": frozen} if frozen else {}
        if self._adapters is not None:
            state["lora"] = asdict(self._adapters)
        return {"fine_tuning": state} if state else {}

    def restore_fine_tuning(self, state: Mapping[str, Any]) -> None:
        """As ``fine_tuning_config`` told; the adapters' values come with the weights."""
        if lora := state.get("lora"):
            layers, before = tuple(lora["layers"]), tuple(lora["frozen_before"])
            self._add_adapters(Adapters(lora["rank"], lora["alpha"], layers, before))
        frozen = set(state.get("frozen", ()))
        for variable in self.weights:
            variable.trainable = weight_name(variable) not in frozen

    # ---- learning rates by depth ----------------------------------------------------------------------------------

    def layerwise_decay(self, optimizer: Any, decay: float = 0.9) -> LayerwiseDecay:
        """`optimizer` with a learning rate that is smaller the deeper a weight lies: ``compile`` takes it.

        Of n blocks, block i learns at ``decay ** (n - i)``, what comes before the blocks at ``decay ** (n + 1)``, and
        what comes after them at the full rate (Sun et al. 2019, arXiv:1905.05583, section 5.3.2; Clark et al. 2020,
        arXiv:2003.10555, whose code puts one more decay between the head and the last block). The stacks of an
        encoder–decoder count from their own ends. A tied token table counts as an embedding.

        Args:
            optimizer: a Keras optimizer or its name, of any kind, with any learning rate or schedule.
            decay: over 0 and up to 1, which is no decay.

        Raises:
            ValueError: a decay outside of that, a model without blocks, or an optimizer with `use_ema`.
        """
        if not isinstance(decay, int | float) or isinstance(decay, bool) or not 0 < decay <= 1:
            raise ValueError(f"decay: got {decay!r}; accepted: a number over 0 and up to 1")
        stacks = self._stacks("layerwise_decay")
        blocks = {block.name: decay ** (len(stack) - i) for stack in stacks for i, block in enumerate(stack)}
        parts = list(dict.fromkeys(filter(None, map(_part, self.weights))))  # in the order in which they were made
        before = parts[: min(parts.index(name) for name in blocks)]
        return LayerwiseDecay(optimizer, {**dict.fromkeys(before, decay ** (1 + max(map(len, stacks)))), **blocks})

    # ---- gradient checkpointing -----------------------------------------------------------------------------------

    @property
    def gradient_checkpointing(self) -> bool:
        """In training, keep each block's input only, and compute the rest again in the backward pass (Chen et al. 2016,
        arXiv:1604.06174): less memory for about a third more time. Losses and gradients stay the same.

        Raises:
            ValueError: when set to True on a model without blocks, or on another backend than TensorFlow.
        """
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on:
            self._stacks("gradient_checkpointing")
            if keras.backend.backend() != "tensorflow":
                raise ValueError(f"KERAS_BACKEND: got {keras.backend.backend()!r}; accepted: 'tensorflow' for this")
        self._checkpointing = bool(on)
        model: Any = self
        model.train_function = None

    def _stacks(self, argument: str) -> list[Sequence[Any]]:
        stacks = [stack for name in STACKS if (stack := getattr(self, name, None))]
        if not stacks:
            raise ValueError(f"{argument}: got a {self.family}; accepted: a model made of Transformer blocks")
        return stacks


def checkpointed(block: Any, x: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """``block(x, **arguments)``, of which the backward pass keeps `x` and `arguments` only."""
    flat = keras.tree.flatten(dict(arguments))
    # Gradients flow to what is given by position, such as a bias that is trained; masks and switches have none.
    places = [i for i, part in enumerate(flat) if _is_float(part)]
    # Both passes must draw the same dropout masks: the block reads its seeds from a scope, not from its generators.
    generators = [v for v in block.non_trainable_variables if v.name == "seed_generator_state"]
    seeds = [ops.copy(generator) for generator in generators]
    for generator, seed in zip(generators, seeds, strict=True):
        generator.assign(seed + ops.convert_to_tensor([0, DRAWS], dtype=seed.dtype))

    def run(x: Tensor, *given: Tensor) -> Tensor:
        parts = list(flat)
        for i, part in zip(places, given, strict=True):
            parts[i] = part
        with keras.StatelessScope(state_mapping=list(zip(generators, seeds, strict=True))):
            return block(x, **keras.tree.pack_sequence_as(dict(arguments), parts))

    return keras.remat(run)(x, *(flat[i] for i in places))


@keras.saving.register_keras_serializable(package="attention_zoo")
class LayerwiseDecay(keras.optimizers.Optimizer):
    """`inner_optimizer`, of whose every change to a weight only a part is kept: see ``FineTuning.layerwise_decay``.

    Its step and its decoupled weight decay are both proportional to the learning rate, so this is the same as another
    rate for each weight.

    Args:
        inner_optimizer: a Keras optimizer or its name.
        factors: first part of a weight's name, such as "block_3", to the part of the change that is kept. Default: 1.

    Raises:
        ValueError: an optimizer with `use_ema`, whose averages would be of changes that were not made.
    """

    def __init__(self, inner_optimizer: Any, factors: Mapping[str, float], name: str | None = None) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = keras.optimizers.get(inner_optimizer)
        if self.inner_optimizer.use_ema:
            raise ValueError("optimizer: got one with use_ema=True; accepted: one without")
        self.factors = dict(factors)

    def build(self, variables: list[Any]) -> None:
        self.inner_optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self) -> list[Any]:
        return [*self._variables, *self.inner_optimizer.variables]

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if not self.built:
            self.build(list(trainable_variables))
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        slowed = [(v, factor) for v in variables if (factor := self.factors.get(_part(v), 1.0)) != 1.0]
        before = [ops.copy(variable) for variable, _ in slowed]
        self.inner_optimizer.apply(grads, trainable_variables)
        for (variable, factor), old in zip(slowed, before, strict=True):
            variable.assign(old + factor * (ops.convert_to_tensor(variable) - old))

    @property
    def learning_rate(self) -> Any:
        """The full rate, of the head."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    def scale_loss(self, loss: Tensor) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "inner_optimizer": inner, "factors": dict(self.factors)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LayerwiseDecay:
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(inner, config["factors"], config.get("name"))


@keras.saving.register_keras_serializable(package="attention_zoo")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """From 0 up to `peak` over `warmup_steps`, then down to 0 at `total_steps`, both in a line (Devlin et al. 2018,
    arXiv:1810.04805, appendix A.2).

    Raises:
        ValueError: a peak that is not positive, or steps out of order.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        super().__init__()
        if not isinstance(peak, int | float) or not peak > 0:
            raise ValueError(f"peak: got {peak!r}; accepted: a positive number")
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"warmup_steps: got {warmup_steps}; accepted: from 0 to below total_steps={total_steps}")
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> Tensor:
        step = ops.cast(step, "float32")
        up = step / max(1, self.warmup_steps) if self.warmup_steps else ops.ones_like(step)
        down = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        return self.peak * ops.clip(ops.minimum(up, down), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


def _part(variable: Any) -> str:
    """The first part of a weight's name, "" of the model's own weights."""
    part, below, _ = weight_name(variable).partition("/")
    return part if below else ""


def _listed(patterns: str | Sequence[str]) -> Sequence[str]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _matches(path: str, patterns: str | Sequence[str]) -> bool:
    """Does a pattern match `path`, or a layer that it lies in?"""
    parts = path.split("/")
    prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in _listed(patterns))


def _is_adapter(name: str) -> bool:
    return name.rpartition("/")[2] in (f"lora_{kind}_{part}" for kind in ("kernel", "embeddings") for part in "ab")


def _is_float(part: Any) -> bool:
    return hasattr(part, "dtype") and "float" in keras.backend.standardize_dtype(part.dtype)


def _size(variable: Any) -> int:
    size = 1
    for side in variable.shape:
        size *= side
    return size


def _dense_layers(model: Any) -> dict[str, Any]:
    """The layers that take an adapter, by their paths."""
    kinds = keras.layers.Dense | keras.layers.Embedding
    found = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kinds)]
    return {weight_name(_base(layer)).rpartition("/")[0]: layer for layer in found}


def _base(layer: Any) -> Any:
    """The kernel or table itself, which ``layer.kernel`` is not where there is an adapter."""
    return next(variable for variable in layer.weights if variable.name in ("kernel", "embeddings"))


def _merged(layer: Any) -> Tensor:
    """W + alpha / rank · A B, computed in float32 and given in W's dtype."""
    named = {variable.name.rpartition("_")[2]: variable for variable in layer.weights if _is_adapter(variable.name)}
    delta = ops.matmul(ops.cast(named["a"], "float32"), ops.cast(named["b"], "float32"))
    base = _base(layer)
    return ops.cast(ops.cast(base, "float32") + (layer.lora_alpha / layer.lora_rank) * delta, base.dtype)
