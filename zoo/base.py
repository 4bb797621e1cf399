"""The base class of all models: input checks, running blocks, collecting intermediates, and saving with Keras."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import keras
import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from ..finetuning.checkpointing import checkpointed
from ..finetuning.model import FineTuning
from ..signature import Graph, Signature, plain_inputs
from ..text.pairs import PairScoring
from ..weights.rules import Dialect, by_name, weight_name
from .companions import load_companions, save_companions
from .compile_checks import warn_of_compiled
from .config import Config
from .distributed import Distributed, check_batches, rows_of
from .fit_checks import checked_data, weights_of_tokens
from .keras_saving import save_beside, save_weights_beside, stored_bytes
from .served import Served
from .token_losses import TokenLosses

if TYPE_CHECKING:
    from ..generation.search import GenerateOptions

Tensor = Any


class Intermediates:
    """The hidden states and attention weights of every block, collected during a call if the caller asked for them."""

    def __init__(self, hidden_states: bool = False, attentions: bool = False) -> None:
        self.with_hidden_states, self.with_attentions = hidden_states, attentions
        self.hidden_states: list[Tensor] = []
        self.attentions: list[Tensor] = []
        self.cross_attentions: list[Tensor] = []

    def named(self, stack: str = "") -> dict[str, tuple[Tensor, ...]]:
        """Return the requested intermediates by name, without those that the model does not have.

        Args:
            stack: a prefix for the names, such as "encoder_"; "cross_attentions" does not get it.
        """
        found: dict[str, tuple[Tensor, ...]] = {}
        if self.with_hidden_states:
            found[f"{stack}hidden_states"] = tuple(self.hidden_states)
        if self.with_attentions and self.attentions:
            found[f"{stack}attentions"] = tuple(self.attentions)
        if self.with_attentions and self.cross_attentions:
            found["cross_attentions"] = tuple(self.cross_attentions)
        return found


def build_each(input_shape: tuple[int | None, ...], *layers: Any) -> None:
    """Build all `layers` that are not None for inputs of the same shape."""
    for layer in layers:
        if layer is not None:
            layer.build(input_shape)


class ZooModel(Served, TokenLosses, Distributed, FineTuning, PairScoring):
    """A Keras model with a config. It is built on construction: ``fit``, ``save`` and ``count_params`` work at once.

    A call takes a dict of inputs by their names in :attr:`signature`, or the first input alone. With
    ``output_hidden_states=True`` or ``output_attentions=True``, every model returns a dict of its outputs and tuples of
    intermediates: the hidden states before the first block and after each block, and the attention weights of each
    block, (batch, heads, query, key).

    Args:
        config: the family's config, or a dict of its fields. Default: a config with `overrides`.
        name: the name of the Keras model. Default: the family's name.
        dtype: a Keras dtype policy. Outputs are float32 under every policy.
        trainable: whether the weights can be trained, as in ``keras.Model``.
        overrides: config fields; not accepted together with `config`.

    Raises:
        ValueError: a config field is unknown or has an invalid value. When called: an input has a wrong name, rank,
            dtype or length, or ids are out of range. Ids are checked wherever their values are available: in eager
            calls, and in NumPy data passed to ``fit``, ``evaluate`` and ``predict``.
    """

    family: ClassVar[str]
    config_class: ClassVar[type[Config]]
    dialects: ClassVar[Mapping[str, Dialect]] = {}  # by Hugging Face's model_type; GGUF files under "gguf"
    keras_hub_dialects: ClassVar[Mapping[str, Dialect]] = {}  # by the prefix of KerasHub's class names
    head_parts: ClassVar[tuple[str, ...]] = ()  # names of the layers, and of the model's own weights, of the head
    tasks: ClassVar[Mapping[str | None, str]] = {None: "feature-extraction"}  # Hugging Face's task names by head
    blocks: list[Any]

    if TYPE_CHECKING:
        # Only models that generate text have these methods, of ``Generating``. They are declared here for models whose
        # family is not known before run time, such as those that ``load`` returns.
        def generate(
            self, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]
        ) -> np.ndarray: ...
        def generate_text(self, prompts: Any, **options: Unpack[GenerateOptions]) -> Any: ...
        def stream_text(self, prompt: Any, **options: Unpack[GenerateOptions]) -> Iterator[str]: ...

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
        self._parent_path = ""  # weight paths start at this model wherever it is created; see ``weight_name``
        if config is not None and overrides:
            raise ValueError(f"config: got a config and fields {sorted(overrides)}; accepted: one or the other")
        if not isinstance(config, self.config_class | Mapping | None):
            raise ValueError(f"config: got {type(config).__name__}; accepted: {self.config_class.__name__} or a dict")
        given = overrides if config is None else config
        self.config: Any = self.config_class.from_dict(given) if isinstance(given, Mapping) else given
        self.tokenizer: Any = None  # a ``text.tokenizer.Tokenizer``, set by ``load``; ``save`` writes it too
        # The content of the JSON files that the model was loaded from.
        self.huggingface: dict[str, Any] = {}  # config.json of a Hugging Face folder
        self.preprocessor: dict[str, Any] = {}  # preprocessor_config.json, for ``layers.ImageProcessor``
        self.sentences: dict[str, Any] = {}  # sentence_bert_config.json
        self.sentence_options: dict[str, Any] = {}  # config_sentence_transformers.json
        self.generation_config: dict[str, Any] = {}  # generation_config.json, for the defaults of ``generate``
        # Weights of the loaded file that no head uses, such as a pooler; ``to_huggingface`` writes them again. They
        # only fit the body as it was loaded, so they are dropped when the body is trained or replaced.
        self.unused: dict[str, np.ndarray] = {}
        self.build_layers()
        self.build(None)

    def build_layers(self) -> None:
        """Create the layers according to `self.config`."""
        raise NotImplementedError

    @property
    def signature(self) -> Signature:
        """The names, dtypes and dimensions of the inputs and outputs; see ``signature.py``."""
        raise NotImplementedError

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        """Return config overrides of small models for the tests, by the name of the variant they cover."""
        raise NotImplementedError

    def named_inputs(self, inputs: Any, signature: Signature | None = None) -> dict[str, Tensor]:
        """Return `inputs` as a dict of tensors after checking them against `signature`.

        Args:
            inputs: tensors or arrays by name, or the first input alone. Entries that are None are left out.
            signature: default: ``self.signature``.

        Raises:
            ValueError: an input is unknown or missing, or its dtype, shape or values are not accepted.
        """
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
        of_blocks: Sequence[Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> Tensor:
        """Apply `blocks` in turn and collect the intermediates.

        Args:
            blocks: the blocks of one stack.
            x: the input of the first block, (batch, sequence, hidden_dim).
            intermediates: receives the hidden states and, if requested, the attention weights.
            cache: the key/value cache of all blocks; see ``layers/cache.py``. Each block gets its own part.
            encoder_key_values: one (keys, values) pair for the cross-attention of each block.
            of_blocks: further arguments for each block, where blocks differ in masks or positions.
            arguments: passed to every block.

        Returns:
            The output of the last block, (batch, sequence, hidden_dim).
        """
        scores_wanted = intermediates.with_attentions
        recompute = self.gradient_checkpointing and arguments.get("training") and cache is None and not scores_wanted
        intermediates.hidden_states.append(x)
        for i, block in enumerate(blocks):
            own = {**arguments, **(of_blocks[i] if of_blocks is not None else {})}
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
        """Return `result` alone, or a dict of it and the `intermediates` if there are any."""
        if not any(intermediates):
            return result
        named = dict(result) if isinstance(result, Mapping) else {self.signature.outputs[0].name: result}
        for some in intermediates:
            named |= some
        return named

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        """Return the graphs of an exported file by name.

        Args:
            kind: "plain" for the forward pass without a cache. Models that generate also have "dynamic", with caches
                that grow with every call, and "static", with caches of a fixed number of slots.

        Raises:
            ValueError: the model does not have graphs of this kind.
        """
        if kind != "plain":
            raise ValueError(f"model: got {self.name} without logits to generate from; accepted: one that generates")
        return {"model": Graph(self.signature.exported(), self.by_name)}

    def named_weights(self) -> dict[str, Any]:
        """Return all weights by name."""
        return by_name(self)

    @property
    def task(self) -> str | None:
        """Hugging Face's name of the model's task, such as "text-generation" or "image-classification"."""
        return self.tasks[getattr(self.config, "head", None)]

    @property
    def generates(self) -> bool:
        """Whether the model has a ``generate`` method and graphs with a cache."""
        return False

    @property
    def static_ranges(self) -> bool:
        """Whether an exported file may have static ranges of its activations; see ``export.Precision``."""
        return True

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Call the model for inference and return its outputs by their names in ``signature.outputs``."""
        result = self(dict(inputs), training=False)
        outputs = self.signature.outputs
        if not isinstance(result, Mapping):
            return {outputs[0].name: result}
        return {spec.name: result[spec.name] for spec in outputs}

    def _outputs_of(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if getattr(self.config, "head", None) != "sequence_classification":  # before anything is computed
            raise ValueError(
                f"model: got head={getattr(self.config, 'head', None)!r}; accepted: sequence_classification"
            )
        return {name: np.asarray(ops.convert_to_numpy(value)) for name, value in self.by_name(inputs).items()}

    def _score_activation(self) -> str | None:
        return getattr(self.config, "score_activation", None)

    def _most_tokens(self) -> int | None:
        return getattr(self.config, "max_length", None)

    @classmethod
    def of_head(cls, name: str) -> bool:
        """Return whether the weight with this name belongs to the head."""
        return name.partition("/")[0] in cls.head_parts

    def transfer_weights(self, source: keras.Model) -> list[str]:
        """Copy every weight whose name `source` has too, such as the weights of the body under a new head.

        Adapters of `source` are merged into the copied weights.

        Returns:
            The names of this model's weights that `source` does not have; they keep their values.

        Raises:
            ValueError: the models have no weight name in common, or two weights of the same name differ in shape.
        """
        merged = source.merged_weights() if isinstance(source, ZooModel) else None
        theirs = dict(merged or by_name(source))
        shared = {name: variable for variable in self.weights if (name := weight_name(variable)) in theirs}
        if not shared:
            raise ValueError(f"source: got {source.name}, of which no weight has a name of {self.name}'s")
        for name, variable in shared.items():  # check all shapes before the first weight is changed
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

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Configure training as ``keras.Model.compile`` does, and warn of what would not train the model as meant."""
        super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, *args, **kwargs)
        warn_of_compiled(self, [metrics, weighted_metrics])

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with the arguments that a ``.keras`` file has."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        y = self.labels_for_weights(x, y, kwargs.get("sample_weight"), kwargs.get("class_weight"))
        if "validation_data" in kwargs:
            kwargs["validation_data"] = self.validation_with_labels(kwargs["validation_data"])
        if (weights := kwargs.get("class_weight")) and any("sequence" in o.dims for o in self.signature.outputs):
            of_tokens = weights_of_tokens(weights, x, y, kwargs.get("sample_weight"))
            if of_tokens is not None:
                kwargs |= {"class_weight": None, "sample_weight": of_tokens}
        x = self._checked(x)
        self._check_optimizer()
        self.check_replicas()
        if any(not self.of_head(weight_name(variable)) for variable in self.trainable_weights):
            self.unused = {}
        self.check_fit(x, {**dict(zip(("batch_size",), args, strict=False)), **kwargs})
        with self.whole_batches():
            return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        y = self.labels_for_weights(x, y, kwargs.get("sample_weight", args[2] if len(args) > 2 else None))
        x = self._checked(x)
        check_batches(rows_of(x), kwargs.get("batch_size", args[0] if args else None))
        with self.whole_batches():
            return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        x = self._checked(x)
        size = kwargs.get("batch_size", args[0] if args else None)
        with self.whole_batches():
            return self.predict_padded(x, size, lambda rows: super(ZooModel, self).predict(rows, *args, **kwargs))

    def _checked(self, x: Any) -> Any:
        """Return the data `x` in the form Keras accepts. It is checked first if it is NumPy arrays or None."""
        signature = self.signature
        x = plain_inputs(x, signature.inputs[0].name)
        if isinstance(x, Mapping):
            x = {name: array for name, array in x.items() if array is not None}
        arrays = x if isinstance(x, Mapping) else {} if x is None else {signature.inputs[0].name: x}
        if all(isinstance(array, np.ndarray) for array in arrays.values()):
            signature.check_arrays(arrays)
            return x
        return checked_data(x, signature)

    def save(self, filepath: Any, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any) -> None:
        """Save the model as ``keras.Model.save`` does, so that `filepath` changes as a whole or not at all.

        Raises:
            ValueError: as Keras; or the folder of `filepath` cannot be written to, or the disk is full.
        """

        def write(path: Any, replace: bool) -> None:
            super(ZooModel, self).save(path, overwrite=replace, zipped=zipped, **kwargs)

        save_beside(write, filepath, overwrite, zipped, stored_bytes(self))

    def save_weights(self, filepath: Any, overwrite: bool = True, max_shard_size: float | None = None) -> None:
        """Save the weights as ``keras.Model.save_weights`` does, and in the way of ``save``."""

        def write(path: Any, replace: bool) -> None:
            super(ZooModel, self).save_weights(path, overwrite=replace, max_shard_size=max_shard_size)

        save_weights_beside(write, filepath, overwrite, max_shard_size, stored_bytes(self))

    def save_assets(self, folder: str) -> None:
        """Write the parts of a ``.keras`` file other than config and weights. Keras calls this on ``save``."""
        save_companions(self, Path(folder))

    def load_assets(self, folder: str | None) -> None:
        """Read what ``save_assets`` wrote. Files of earlier versions have no assets; `folder` is None for them."""
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
    """Return the values of `tensor`, or None while it is being traced."""
    try:
        return np.asarray(tensor)
    except Exception:  # each backend raises another error for a tensor that has no value yet
        return None
