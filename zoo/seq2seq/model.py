"""Seq2Seq: a recurrent encoder and decoder, without attention or with the attention that began it all.

Sutskever et al. 2014 (arXiv:1409.3215): the encoder's last state starts the decoder. Bahdanau et al. 2014
(arXiv:1409.0473) let the decoder look back at every encoder state with an additive score, Luong et al. 2015
(arXiv:1508.04025) with a product. The attention stands where Luong has it, behind the recurrent layers
(``tanh(W [context; state])``, their section 3) and not in their loop, for every score: the whole target is then one run
of the fastest recurrent kernel and one matrix product.

    input_ids, attention_mask (1 = keep): (batch, source)
    decoder_input_ids: (batch, target), the target moved right behind a start token
    -> logits (batch, target, vocab_size)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ...generation.keras_decoder import Generating
from ...layers.core import Dense
from ...layers.embedding import TokenEmbedding
from ...layers.recurrent import CELLS
from ...layers.recurrent_attention import recurrent_attention
from ...signature import Graph, Signature, TensorSpec
from ..base import Config, Tensor, ZooModel
from ..registry import register

State = list[Tensor]  # (batch, hidden_dim) each: h and c of every LSTM layer, or h of every GRU layer


@dataclass(frozen=True)
class Seq2SeqConfig(Config):
    """Defaults are Luong's sizes with Bahdanau's score.

    Attributes:
        vocab_size: of source and target.
        num_layers: recurrent layers of the encoder, and of the decoder.
        hidden_dim: width of a recurrent state; of both directions together in a bidirectional encoder.
        embedding_dim: width of the two token tables. Default: `hidden_dim`.
        cell: "lstm" or "gru".
        bidirectional: the encoder reads both ways.
        attention: "additive" (or Luong's "concat", the same function), "general", "dot", or None for none.
        max_length: longest source and longest target.
        dropout: between layers, in training only.
        decoder_start_token_id, eos_token_id, pad_token_id: how a target begins and ends, and what fills it up.
    """

    vocab_size: int = 32_000
    num_layers: int = 1
    hidden_dim: int = 1000
    embedding_dim: int | None = None
    cell: str = "lstm"
    bidirectional: bool = True
    attention: str | None = "additive"
    max_length: int = 1024
    dropout: float = 0.0
    decoder_start_token_id: int = 1
    eos_token_id: int | None = 2
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        self._default("embedding_dim", self.hidden_dim)
        self._positive("vocab_size", "num_layers", "hidden_dim", "embedding_dim", "max_length")
        self._choice("cell", tuple(CELLS))
        self._choice("attention", ("additive", "concat", "general", "dot", None))
        if self.bidirectional and self.hidden_dim % 2:
            raise ValueError(f"hidden_dim: got {self.hidden_dim}; accepted: an even number, half for each direction")
        self._rates("dropout")
        self._tokens("decoder_start_token_id", required=True)
        self._tokens("eos_token_id", "pad_token_id")


@register
class Seq2Seq(Generating, ZooModel):
    """``Seq2Seq(hidden_dim=256)``, ``Seq2Seq(config)`` or ``az.create("seq2seq", attention="dot")``. See the module.

    Of the intermediates, it has ``encoder_hidden_states``, ``decoder_hidden_states`` and ``cross_attentions``, a tuple
    of one (batch, target, source): the alignment.
    """

    family: ClassVar[str] = "seq2seq"
    config_class: ClassVar[type[Config]] = Seq2SeqConfig

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        cell = CELLS[c.cell]
        width = c.hidden_dim // 2 if c.bidirectional else c.hidden_dim
        self.embedding = TokenEmbedding(c.vocab_size, c.embedding_dim, name="embedding", **shared)
        self.decoder_embedding = TokenEmbedding(c.vocab_size, c.embedding_dim, name="decoder_embedding", **shared)
        layers = range(c.num_layers)
        self.forward_layers = [cell(width, name=f"encoder_{i}", **shared) for i in layers]
        self.backward_layers: list[Any] = []
        if c.bidirectional:
            self.backward_layers = [
                cell(width, go_backwards=True, name=f"encoder_backwards_{i}", **shared) for i in layers
            ]
        self.decoder_layers = [cell(c.hidden_dim, name=f"decoder_{i}", **shared) for i in layers]
        self.attention = recurrent_attention(c.attention, c.hidden_dim, name="attention", **shared)
        self.combine = None
        if self.attention is not None:
            self.combine = Dense(c.hidden_dim, activation="tanh", use_bias=False, name="combine", **shared)
        self.dropout = keras.layers.Dropout(c.dropout, name="dropout", **shared)
        self.lm_head = Dense(c.vocab_size, name="lm_head", **shared)

    def build(self, input_shape: Any = None) -> None:
        c = self.config
        states = (None, None, c.hidden_dim)
        self.embedding.build((None, None))
        self.decoder_embedding.build((None, None))
        for stack in (self.forward_layers, self.backward_layers, self.decoder_layers):
            for i, layer in enumerate(stack):
                layer.build((None, None, c.embedding_dim) if i == 0 else states)
        if self.attention is not None and self.combine is not None:
            self.attention.build(states, states)
            self.combine.build((None, None, 2 * c.hidden_dim))
        self.lm_head.build(states)

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        named = self.named_inputs(inputs)
        mask = named.get("attention_mask")
        encoded, state, seen = self.encode(named["input_ids"], mask, training)
        x, _, scores, looked = self.decode(
            named["decoder_input_ids"], state, encoded, mask, output_attentions=output_attentions, training=training
        )
        asked: dict[str, Any] = {}
        if output_hidden_states:
            asked |= {"encoder_hidden_states": seen, "decoder_hidden_states": looked}
        if output_attentions and scores is not None:
            asked["cross_attentions"] = (scores,)
        return self.finish(self.head(x), asked)

    def encode(
        self, ids: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> tuple[Tensor, State, tuple[Tensor, ...]]:
        """(batch, source) ids to (batch, source, hidden_dim) states, the state the decoder starts from, and the
        states after every layer."""
        mask = None if mask is None else ops.cast(mask, "bool")
        x = self.dropout(self.embedding(ids), training=training)  # (B, S, E)
        states, seen = [], [x]
        for i, forward in enumerate(self.forward_layers):
            x, *last = self._both_ways(i, forward, x, mask, training)
            states += last
            seen.append(x)
            if i + 1 < len(self.forward_layers):
                x = self.dropout(x, training=training)
        return x, states, tuple(seen)

    def _both_ways(self, i: int, forward: Any, x: Tensor, mask: Tensor | None, training: bool | None) -> list[Tensor]:
        outputs = forward(x, mask=mask, training=training)
        if not self.backward_layers:
            return list(outputs)
        backward = self.backward_layers[i](x, mask=mask, training=training)
        backward = [ops.flip(backward[0], axis=1), *backward[1:]]  # it computed the last token first
        return [ops.concatenate(pair, axis=-1) for pair in zip(outputs, backward, strict=True)]

    def decode(
        self,
        ids: Tensor,
        state: Sequence[Tensor],
        encoded: Tensor | None,
        encoder_mask: Tensor | None,
        *,
        keys: Tensor | None = None,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> tuple[Tensor, State, Tensor | None, tuple[Tensor, ...]]:
        """(batch, target) ids to (batch, target, hidden_dim) states, the state after them, the alignment if asked for,
        and the states after every layer. `keys` is ``attention.prepare(encoded)``, where it is already known."""
        x = self.dropout(self.decoder_embedding(ids), training=training)  # (B, T, E)
        per_layer = len(state) // len(self.decoder_layers)
        states, looked = [], [x]
        for i, layer in enumerate(self.decoder_layers):
            x, *last = layer(x, initial_state=list(state[i * per_layer : (i + 1) * per_layer]), training=training)
            states += last
            looked.append(x)
            x = self.dropout(x, training=training)
        scores = None
        if self.attention is not None and self.combine is not None:
            context, scores = self.attention(
                x, encoded, key_mask=encoder_mask, keys=keys, return_attention_scores=True
            )  # (B, T, D), (B, T, S)
            x = self.dropout(self.combine(ops.concatenate([context, x], axis=-1)), training=training)
        return x, states, scores if output_attentions else None, tuple(looked)

    def head(self, x: Tensor) -> Tensor:
        """(..., hidden_dim) states to (..., vocab_size) logits in float32."""
        return ops.cast(self.lm_head(x), "float32")

    @property
    def signature(self) -> Signature:
        c = self.config
        source, target = ("batch", "source"), ("batch", "target")
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", source, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", source, below=2, optional=True, fill=1),
                TensorSpec("decoder_input_ids", "int32", target, below=c.vocab_size),
            ),
            outputs=(TensorSpec("logits", "float32", (*target, c.vocab_size)),),
            limits={"source": c.max_length, "target": c.max_length},
            defaults=dict.fromkeys(("source", "target"), min(64, c.max_length)),
        )

    def graphs(self, kind: str = "dynamic") -> dict[str, Graph]:
        if kind not in ("dynamic", "static"):
            return super().graphs(kind)
        c, spec = self.config, self.signature
        parts = ("h", "c") if c.cell == "lstm" else ("h",)
        names = [f"{i}.{part}" for i in range(c.num_layers) for part in parts]
        width = ("batch", "source", c.hidden_dim)
        states = [TensorSpec("encoder_hidden_states", "float32", width)]
        if c.attention not in (None, "dot"):
            states.append(TensorSpec("encoder_keys", "float32", width))
        if c.attention is None:
            states = []

        def encode(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            encoded, state, _ = self.encode(inputs["input_ids"], inputs["attention_mask"], training=False)
            found = {f"past_state.{name}": part for name, part in zip(names, state, strict=True)}
            if states:
                found["encoder_hidden_states"] = encoded
            if len(states) > 1:
                found["encoder_keys"] = self.attention.prepare(encoded)
            return found

        def decode(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            x, state, _, _ = self.decode(
                inputs["decoder_input_ids"],
                [inputs[f"past_state.{name}"] for name in names],
                inputs.get("encoder_hidden_states"),
                inputs.get("encoder_attention_mask"),
                keys=inputs.get("encoder_keys"),
                training=False,
            )
            present = {f"present_state.{name}": part for name, part in zip(names, state, strict=True)}
            return {"logits": self.head(x), **present}

        def specs(prefix: str) -> list[TensorSpec]:
            return [TensorSpec(f"{prefix}.{name}", "float32", ("batch", c.hidden_dim)) for name in names]

        step = ("batch", 1)  # a recurrent decoder makes one step at a time
        mask = [TensorSpec("encoder_attention_mask", "int32", ("batch", "source"), below=2)] if states else []
        source = {"limits": {"source": c.max_length}, "defaults": {"source": spec.defaults["source"]}}
        encoder = Signature(spec.inputs[:2], (*states, *specs("past_state")), **source)
        decoder = Signature(
            (TensorSpec("decoder_input_ids", "int32", step, below=c.vocab_size), *mask, *states, *specs("past_state")),
            (TensorSpec("logits", "float32", (*step, c.vocab_size)), *specs("present_state")),
            **source,
            state={f"past_state.{name}": f"present_state.{name}" for name in names},
        )
        return {"encoder": Graph(encoder, encode), "decoder": Graph(decoder, decode)}

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {"vocab_size": 61, "hidden_dim": 24, "embedding_dim": 16, "max_length": 40}
        return {
            "bahdanau": {**small, "num_layers": 2},
            "luong": {**small, "attention": "general", "bidirectional": False, "cell": "gru"},
            "dot": {**small, "attention": "dot", "cell": "gru"},
            "plain": {**small, "attention": None, "bidirectional": False, "num_layers": 2},
        }
