"""``model.generate`` on every Keras backend: compiled once per bucket of shapes, the cache kept in place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from .decoder import TOKENS, GraphDecoder, bucket
from .search import AHEAD, generate

if TYPE_CHECKING:
    from ..signature import Graph

Tensor = Any
KEPT = 8  # compiled steps with their caches, of the latest shapes


class Generating:
    """A model that continues text. It has the graphs "decoder" and perhaps "encoder"."""

    config: Any
    graphs: Any
    _steps: OrderedDict[Any, Step]

    @property
    def generates(self) -> bool:
        return True

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> np.ndarray:
        """As ``generation.search.generate``, with this model's logits and all its options.

        The first call with new sizes (rows, and lengths rounded up to the next bucket) compiles, later ones do not.

        Args:
            input_ids: (batch, prompt) integers.
            attention_mask: (batch, prompt), 1 = keep.

        Returns:
            (batch, prompt + new) int64 ids; of an encoder-decoder (batch, 1 + new), behind its start token.

        Raises:
            ValueError: a model without logits, an option or input that is not accepted, or too many tokens.
        """
        return generate(self.decoder(), input_ids, attention_mask, **options)

    def decoder(self) -> KerasDecoder:
        """What gives ``generate`` its logits."""
        return KerasDecoder(self)


class KerasDecoder(GraphDecoder):
    """The decoder of a Keras model. Sizes are rounded up to buckets: a prompt gets padding on its left, a source on its
    right, and rows that are not needed repeat the first one."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graphs = model.graphs("static")  # refuses a model without logits
        super().__init__(self.graphs, model.config.to_dict())
        self.kept: OrderedDict[Any, Step] = model.__dict__.setdefault("_steps", OrderedDict())

    def prompt(self, input_ids: np.ndarray, attention_mask: np.ndarray, room: int) -> np.ndarray:
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        self.model.signature.check_arrays(given, complete=False)
        extra = bucket(input_ids.shape[1], 16) - input_ids.shape[1]
        widths = ((0, 0), (0, extra) if "encoder" in self.graphs else (extra, 0))
        return super().prompt(np.pad(input_ids, widths), np.pad(attention_mask, widths), room)

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, Any]:
        step = self._step("encoder", input_ids.shape, {})
        return step(_tensors({"input_ids": input_ids, "attention_mask": attention_mask}))

    def start_state(self, rows: int, slots: int, given: Mapping[str, Any]) -> None:
        self.rows, self.slots = rows, bucket(slots, 64)
        signature = self.graphs["decoder"].signature
        sizes = {"batch": rows, "slots": self.slots}
        self.shapes = {
            spec.name: tuple(sizes[d] if isinstance(d, str) else d for d in spec.dims)
            for spec in signature.inputs
            if spec.name in signature.state
        }
        self.current = self._decoder_step(rows)
        self.current.assign(given)

    def select(self, rows: np.ndarray) -> None:
        wanted = max(len(rows), self.rows)
        filled = np.concatenate([rows, np.zeros(wanted - len(rows), "int64")])
        index = ops.convert_to_tensor(filled.astype("int32"))
        self.fixed = {name: _take(value, index) for name, value in self.fixed.items()}
        self.mask = None if self.mask is None else self.mask[filled]
        state = {name: _take(value, index) for name, value in self.current.state().items()}
        self.rows = wanted
        self.current = self._decoder_step(wanted)
        self.current.assign(state)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        filled = np.concatenate([tokens, np.repeat(tokens[:1], self.rows - len(tokens))])
        return super().step(filled)[: len(tokens)]

    def greedy(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """The likeliest token, fed again, `count` times in one compiled loop: (rows, count)."""
        filled = np.concatenate([tokens, np.repeat(tokens[:1], self.rows - len(tokens))])
        shapes = {name: (self.rows, *shape[1:]) for name, shape in self.shapes.items()}
        loop = self._step("greedy", (self.rows, self.slots), shapes)
        if loop is not self.current:
            loop.assign(self.current.state())
            self.current = loop
        if self.mask is not None:
            self.mask = np.concatenate([self.mask, np.ones((self.rows, count), "int64")], axis=1)
        inputs = self._inputs(filled[:, None])
        self.count += count - 1
        chosen = loop(_tensors({**self._masked(inputs), "count": np.array(count, "int32")}))["tokens"]
        return ops.convert_to_numpy(chosen)[: len(tokens), :count].astype("int64")

    def run(self, inputs: dict[str, Any]) -> np.ndarray:
        if self.current.looped:  # a step after a loop goes on with its cache
            step = self._decoder_step(self.rows)
            step.assign(self.current.state())
            self.current = step
        return ops.convert_to_numpy(self.current(_tensors(self._masked(inputs)))["logits"])[:, -1]

    def _masked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if self.mask is not None:  # a column for every slot; those to come may be seen as soon as they are written
            rest = np.ones((len(self.mask), self.slots - self.mask.shape[1]), "int32")
            inputs["attention_mask"] = np.concatenate([self.mask.astype("int32"), rest], axis=1)
        return inputs

    def _decoder_step(self, rows: int) -> Step:
        shapes = {name: (rows, *shape[1:]) for name, shape in self.shapes.items()}
        return self._step("decoder", (rows, self.slots), shapes)

    def _step(self, name: str, key: Any, shapes: Mapping[str, tuple[int, ...]]) -> Step:
        key = (name, key)
        if key not in self.kept:
            graph = self.graphs["decoder" if name == "greedy" else name]
            function = greedy_loop(graph, AHEAD) if name == "greedy" else graph.function
            self.kept[key] = Step(self.model, function, shapes, graph.signature.state, looped=name == "greedy")
        self.kept.move_to_end(key)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return self.kept[key]


def _tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: ops.convert_to_tensor(value.astype("int32") if isinstance(value, np.ndarray) else value)
        for name, value in arrays.items()
    }


def _take(value: Any, index: Tensor) -> Any:
    return ops.take(ops.convert_to_tensor(value), index, axis=0)


def greedy_loop(graph: Graph, most: int) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """`graph` called `count` times (another input), at most `most`, each time with the token it liked best before."""
    state = graph.signature.state
    name = next(spec.name for spec in graph.signature.inputs if spec.name in TOKENS)

    def function(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fixed = {key: value for key, value in given.items() if key not in (*state, "count")}

        def body(i: Tensor, token: Tensor, tokens: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            moved = {**fixed, name: token, **dict(zip(state, parts, strict=True))}
            if "cache_position" in fixed:
                moved["cache_position"] = fixed["cache_position"] + i
            outputs = graph.function(moved)
            token = ops.cast(ops.argmax(outputs["logits"][:, -1], axis=-1), "int32")[:, None]  # (B, 1)
            new = [ops.cast(outputs[key], part.dtype) for key, part in zip(state.values(), parts, strict=True)]
            return i + 1, token, ops.slice_update(tokens, (0, i), token), *new

        token = ops.cast(given[name], "int32")
        tokens = ops.zeros((token.shape[0], most), "int32")
        start = (ops.zeros((), "int32"), token, tokens, *(given[key] for key in state))
        _, _, tokens, *last = ops.while_loop(lambda i, *_: i < given["count"], body, start)
        return {"tokens": tokens, **dict(zip(state.values(), last, strict=True))}

    return function


class Step:
    """`function` compiled, with the tensors of its state kept where they are from call to call.

    TensorFlow keeps them in variables, which XLA updates in place; JAX donates them; torch just runs.

    Args:
        function: inputs and state by name, to outputs by name.
        shapes: of the state, by input name.
        names: input of the state to the output that follows it.
        looped: is `function` a ``greedy_loop``?
    """

    def __init__(
        self,
        model: Any,
        function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
        shapes: Mapping[str, tuple[int, ...]],
        names: Mapping[str, str],
        looped: bool = False,
    ) -> None:
        self.model, self.function, self.names, self.looped = model, function, names, looped
        dtype = keras.backend.standardize_dtype(model.compute_dtype)
        self.held = {name: ops.zeros(shape, dtype) for name, shape in shapes.items()}
        backend = keras.backend.backend()
        self.call = {"tensorflow": self._tensorflow, "jax": self._jax, "torch": self._torch}[backend]()

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.call(inputs)

    def state(self) -> dict[str, Tensor]:
        return {name: ops.convert_to_tensor(value) for name, value in self.held.items()}

    def assign(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if keras.backend.backend() == "tensorflow":
                self.held[name].assign(ops.cast(value, self.held[name].dtype))
            else:
                self.held[name] = ops.copy(ops.cast(value, self.held[name].dtype))  # as JAX takes its arguments apart

    def _tensorflow(self) -> Any:
        import tensorflow as tf

        self.held = {name: tf.Variable(value, trainable=False) for name, value in self.held.items()}

        def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            outputs = self.function({**inputs, **{name: value.read_value() for name, value in self.held.items()}})
            for name, new in self.names.items():
                self.held[name].assign(tf.cast(outputs.pop(new), self.held[name].dtype))
            return outputs

        # A prompt is computed once per bucket, where compiling with XLA costs more than it saves; a step pays at once.
        plain = tf.function(run, autograph=False, jit_compile=False, reduce_retracing=False)
        compiled = tf.function(run, autograph=False, jit_compile=True, reduce_retracing=False)

        def call(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            tokens = inputs.get("input_ids", inputs.get("decoder_input_ids"))
            one = tokens is not None and tokens.shape[1] == 1 and bool(self.held)
            return (compiled if one else plain)(inputs)

        return call

    def _jax(self) -> Any:
        import jax  # pyright: ignore[reportMissingImports]

        variables = self.model.variables

        def pure(weights: list[Any], inputs: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
            with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
                return self.function({**inputs, **state})

        compiled = jax.jit(pure, donate_argnums=2)

        def call(inputs: dict[str, Any]) -> dict[str, Any]:
            outputs = dict(compiled([variable.value for variable in variables], inputs, self.held))
            self.held = {name: outputs.pop(new).astype(self.held[name].dtype) for name, new in self.names.items()}
            return outputs

        return call

    def _torch(self) -> Any:
        import torch  # pyright: ignore[reportMissingImports]

        def call(inputs: dict[str, Any]) -> dict[str, Any]:
            with torch.no_grad():
                outputs = self.function({**inputs, **self.held})
            self.held = {name: outputs.pop(new) for name, new in self.names.items()}
            return outputs

        return call
