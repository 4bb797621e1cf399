"""``model.generate`` for every Keras backend.

Steps are compiled once for each bucket of shapes and update the key/value cache in place. The compiled steps belong to
the model and are shared; each request has a cache of its own. Therefore several threads may generate with the same
model at the same time, and a ``callback`` may call ``generate`` too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Unpack

import keras
import numpy as np
from keras import ops

from .decoder import TOKENS, GraphDecoder, bucket
from .defaults import obeyed
from .search import AHEAD, GenerateOptions, generate
from .text_generation import TextGenerating, end_tokens

if TYPE_CHECKING:
    from ..signature import Graph

Tensor = Any
KEPT = 16  # number of compiled steps that are kept for each model, the most recently used ones

State = dict[str, Any]  # a cache's tensors by input name; variables with TensorFlow
# Maps inputs and a state to the other outputs and the next state.
Step = Callable[[Mapping[str, Tensor], State], tuple[dict[str, Tensor], State]]


class CompiledSteps:
    """The most recently used compiled steps of a model, at most `KEPT`. Threads share them."""

    def __init__(self) -> None:
        self.steps: OrderedDict[Any, Step] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Step]) -> Step:
        """Return the step of `key`, and create it with `make` if it does not exist."""
        with self.lock:
            if key not in self.steps:
                self.steps[key] = make()
            self.steps.move_to_end(key)
            while len(self.steps) > KEPT:
                self.steps.popitem(last=False)
            return self.steps[key]


class Generating(TextGenerating):
    """Base class of models that generate text. They have the graph "decoder" and optionally the graph "encoder".

    Attributes:
        generation_config: defaults of ``generate`` in the words of transformers' generation_config.json, such as
            ``{"bad_words_ids": [[0]], "num_beams": 4}``. It can be changed at any time; ``save`` and exports keep it.
    """

    config: Any
    graphs: Any
    generation_config: dict[str, Any]
    _compiled_steps: CompiledSteps | None = None

    @property
    def generates(self) -> bool:
        """Whether the model can generate text."""
        return True

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]) -> np.ndarray:
        """Generate a continuation of every row; see ``generation.search.generate`` for all options.

        The first call with new sizes (batch size, and lengths rounded up to the next bucket) compiles, which later
        calls do not. Several threads may call this method at the same time.

        Args:
            input_ids: (batch, prompt) integers, or the mapping that a tokenizer returns. For texts, use
                ``generate_text``.
            attention_mask: (batch, prompt), 1 = token, 0 = padding.
            options: options of ``generation.search.generate``, such as `max_new_tokens`, `temperature` or `seed`. The
                default of an option is that of ``generation_config``, if it has one.

        Returns:
            (batch, prompt + new) int64 ids; for an encoder-decoder (batch, 1 + new), which begin with its start token.

        Raises:
            ValueError: a model without logits, an option or input that is not accepted, or too many tokens.
        """
        return generate(self.decoder(), input_ids, attention_mask, **options)

    def decoder(self) -> KerasDecoder:
        """Return a new decoder, which computes the logits for one request."""
        if sync := getattr(self, "jax_state_sync", None):  # during ``fit`` on JAX, the weights are elsewhere
            sync()
        return KerasDecoder(self)

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """The entries of ``generation_config`` that ``generate`` obeys, and the tokenizer if they have stop strings."""
        found, _ = obeyed(self.generation_config, self._vocab_size, texts=self.tokenizer is not None)
        return found | ({"tokenizer": self.tokenizer} if "stop_strings" in found else {})

    @property
    def stop_tokens(self) -> list[int]:
        """The ids of the end tokens of config, generation config and tokenizer. Each of them ends a text."""
        own = self.config.eos_token_id, self.generation_config.get("eos_token_id")
        return end_tokens(*own, getattr(self.tokenizer, "eos_token_id", None))

    @property
    def _vocab_size(self) -> int:
        return self.config.vocab_size

    def compiled_steps(self) -> CompiledSteps:
        """Return the compiled steps of this model, which exist until ``forget_compiled_steps`` is called."""
        return self.__dict__.setdefault("_compiled_steps", CompiledSteps())  # atomic, as threads may race

    def forget_compiled_steps(self) -> None:
        """Discard the compiled steps, because the model's set of weights has changed."""
        self.__dict__.pop("_compiled_steps", None)


class KerasDecoder(GraphDecoder):
    """The decoder of a Keras model.

    Sizes are rounded up to buckets: decoder prompts are padded on the left and encoder inputs on the right. If fewer
    rows are needed than the compiled batch size, the remaining rows repeat the first one.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graphs = model.graphs("static")  # raises ValueError for a model without logits
        super().__init__(self.graphs, model.config.to_dict(), model.generation_defaults)
        self.compiled = model.compiled_steps()

    def prompt(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, room: int, first: np.ndarray | None = None
    ) -> np.ndarray:
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        given = given if "encoder" not in self.graphs else self.sources(input_ids, attention_mask)
        self.model.signature.check_arrays(given, complete=False)
        if self.reads_features:
            return super().prompt(input_ids, attention_mask, room, first)
        extra = bucket(input_ids.shape[1], 16) - input_ids.shape[1]
        widths = ((0, 0), (0, extra) if "encoder" in self.graphs else (extra, 0))
        return super().prompt(np.pad(input_ids, widths), np.pad(attention_mask, widths), room, first)

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, Any]:
        step = self._step("encoder", input_ids.shape)
        return step(_tensors(self.sources(input_ids, attention_mask)), {})[0]

    def start_state(self, rows: int, slots: int, given: Mapping[str, Any]) -> None:
        self.rows, self.slots = rows, bucket(slots, 64)
        signature = self.graphs["decoder"].signature
        sizes = {"batch": rows, "slots": self.slots}
        dtype = keras.backend.standardize_dtype(self.model.compute_dtype)
        zeros = {
            spec.name: ops.zeros([sizes[d] if isinstance(d, str) else d for d in spec.dims], dtype)
            for spec in signature.inputs
            if spec.name in signature.state and spec.name not in given
        }
        self.held = new_state({**zeros, **{name: ops.cast(value, dtype) for name, value in given.items()}})

    def select(self, rows: np.ndarray) -> None:
        wanted = max(len(rows), self.rows)
        filled = np.concatenate([rows, np.zeros(wanted - len(rows), "int64")])
        index = ops.convert_to_tensor(filled.astype("int32"))
        self.fixed = {name: _take(value, index) for name, value in self.fixed.items()}
        self.mask = None if self.mask is None else self.mask[filled]
        state = {name: _take(value, index) for name, value in self.held.items()}
        if wanted == self.rows:
            assign(self.held, state)
        else:
            self.held = new_state(state)
        self.rows = wanted

    def step(self, tokens: np.ndarray) -> np.ndarray:
        filled = np.concatenate([tokens, np.repeat(tokens[:1], self.rows - len(tokens))])
        return super().step(filled)[: len(tokens)]

    def greedy(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """Feed `tokens` (rows,), then the most likely token repeatedly, in one compiled loop.

        Returns:
            (rows, count) int64 ids, the most likely token after each of the `count` steps.
        """
        filled = np.concatenate([tokens, np.repeat(tokens[:1], self.rows - len(tokens))])
        if self.mask is not None:
            self.mask = np.concatenate([self.mask, np.ones((self.rows, count), "int64")], axis=1)
        inputs = self._inputs(filled[:, None])
        self.count += count - 1
        given = _tensors({**self._masked(inputs), "count": np.array(count, "int32")})
        outputs, self.held = self._step("greedy", (self.rows, self.slots))(given, self.held)
        return ops.convert_to_numpy(outputs["tokens"])[: len(tokens), :count].astype("int64")

    def run(self, inputs: dict[str, Any]) -> np.ndarray:
        step = self._step("decoder", (self.rows, self.slots))
        outputs, self.held = step(_tensors(self._masked(inputs)), self.held)
        return ops.convert_to_numpy(outputs["logits"])[:, -1]

    def _masked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # The mask has a column for every slot. Slots not yet written have a 1 and are hidden by the causal mask.
        if self.mask is not None:
            rest = np.ones((len(self.mask), self.slots - self.mask.shape[1]), "int32")
            inputs["attention_mask"] = np.concatenate([self.mask.astype("int32"), rest], axis=1)
        return inputs

    def _step(self, name: str, sizes: tuple[int, ...]) -> Step:
        def make() -> Step:
            graph = self.graphs["decoder" if name == "greedy" else name]
            function = greedy_loop(graph, AHEAD) if name == "greedy" else graph.function
            return compiled_step(self.model, function, graph.signature.state)

        return self.compiled.get((name, sizes), make)


def _tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: ops.convert_to_tensor(
            value.astype("int32") if isinstance(value, np.ndarray) and value.dtype.kind != "f" else value
        )
        for name, value in arrays.items()
    }


def _take(value: Any, index: Tensor) -> Any:
    return ops.take(ops.convert_to_tensor(value), index, axis=0)


def greedy_loop(graph: Graph, most: int) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return a function that calls `graph` in a loop, each time with the most likely token of the previous call.

    The function has the additional input "count", the number of calls, and returns "tokens" (rows, `most`) int32, of
    which the first "count" columns are set, and the state.

    Args:
        graph: a decoder graph with a static cache.
        most: the greatest number of calls.
    """
    state = graph.signature.state
    name = next(spec.name for spec in graph.signature.inputs if spec.name in TOKENS)

    def function(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fixed = {key: value for key, value in given.items() if key not in (*state, "count")}

        def body(i: Tensor, token: Tensor, tokens: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            moved = {**fixed, name: token, **dict(zip(state, parts, strict=True))}
            if "cache_position" in fixed:
                moved["cache_position"] = fixed["cache_position"] + i
            outputs = graph.function(moved)
            token = ops.cast(ops.argmax(outputs["logits"][:, -1], axis=-1), "int32")[:, None]  # (rows, 1)
            new = [ops.cast(outputs[key], part.dtype) for key, part in zip(state.values(), parts, strict=True)]
            return i + 1, token, ops.slice_update(tokens, (0, i), token), *new

        token = ops.cast(given[name], "int32")
        tokens = ops.zeros((token.shape[0], most), "int32")
        start = (ops.zeros((), "int32"), token, tokens, *(given[key] for key in state))
        _, _, tokens, *last = ops.while_loop(lambda i, *_: i < given["count"], body, start)
        return {"tokens": tokens, **dict(zip(state.values(), last, strict=True))}

    return function


def new_state(values: Mapping[str, Tensor]) -> State:
    """Return a copy of `values` that a step may update in place or donate: variables with TensorFlow, else tensors."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def variables() -> State:
            return {name: tf.Variable(value, trainable=False) for name, value in values.items()}

        if not tf.distribute.has_strategy():
            return variables()
        # Within the scope of a strategy, a variable would have a copy on every device. Scopes are those of a thread.
        with ThreadPoolExecutor(1) as outside:
            return outside.submit(variables).result()
    return {name: ops.copy(value) for name, value in values.items()}


def assign(state: State, values: Mapping[str, Tensor]) -> None:
    """Copy `values` into `state`."""
    for name, value in values.items():
        if keras.backend.backend() == "tensorflow":
            state[name].assign(value)
        else:
            state[name] = ops.copy(value)


def compiled_step(
    model: Any, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], names: Mapping[str, str]
) -> Step:
    """Compile `function` to a step that updates its state without copying it.

    With TensorFlow the state consists of variables, which XLA updates in place. With JAX its buffers are donated. With
    PyTorch the function runs eagerly, without gradients.

    Args:
        model: the model whose weights `function` uses.
        function: maps inputs and state by name to outputs by name.
        names: for each input of the state, the name of the output that replaces it.
    """
    make = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}[keras.backend.backend()]
    return make(model, function, names)


def _tensorflow_step(model: Any, function: Any, names: Mapping[str, str]) -> Step:
    import tensorflow as tf

    def run(inputs: dict[str, Tensor], state: State) -> dict[str, Tensor]:
        outputs = function({**inputs, **{name: value.read_value() for name, value in state.items()}})
        for name, new in names.items():
            state[name].assign(tf.cast(outputs.pop(new), state[name].dtype))
        return outputs

    # A prompt runs once per request, so compiling it with XLA costs more time than it saves. Decode steps run so often
    # that compiling them pays off immediately.
    plain = tf.function(run, autograph=False, jit_compile=False, reduce_retracing=False)
    compiled = tf.function(run, autograph=False, jit_compile=True, reduce_retracing=False)

    def call(inputs: Mapping[str, Tensor], state: State) -> tuple[dict[str, Tensor], State]:
        tokens = inputs.get("input_ids", inputs.get("decoder_input_ids"))
        one = tokens is not None and tokens.shape[1] == 1 and bool(state)
        return (compiled if one else plain)(dict(inputs), state), state

    return call


def _jax_step(model: Any, function: Any, names: Mapping[str, str]) -> Step:
    import jax  # pyright: ignore[reportMissingImports]

    variables = model.variables

    def pure(weights: list[Any], inputs: dict[str, Any], state: State) -> dict[str, Any]:
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            return function({**inputs, **state})

    compiled = jax.jit(pure, donate_argnums=2)

    def call(inputs: Mapping[str, Any], state: State) -> tuple[dict[str, Any], State]:
        outputs = dict(compiled([variable.value for variable in variables], dict(inputs), state))
        return outputs, {name: outputs.pop(new).astype(state[name].dtype) for name, new in names.items()}

    return call


def _torch_step(model: Any, function: Any, names: Mapping[str, str]) -> Step:
    import torch  # pyright: ignore[reportMissingImports]

    def call(inputs: Mapping[str, Any], state: State) -> tuple[dict[str, Any], State]:
        with torch.no_grad():
            outputs = dict(function({**inputs, **state}))
        return outputs, {name: outputs.pop(new) for name, new in names.items()}

    return call
