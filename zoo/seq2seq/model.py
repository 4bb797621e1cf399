"""Seq2Seq: a recurrent encoder and decoder (LSTM or GRU), with or without attention.

In Sutskever et al. 2014 (arXiv:1409.3215), the decoder starts from the final state of the encoder. Bahdanau et al. 2014
(arXiv:1409.0473) add attention to all encoder states with an additive score, Luong et al. 2015 (arXiv:1508.04025) with
a multiplicative score. Unlike in Bahdanau et al., the attention is always applied after the recurrent layers,
``tanh(W [context; state])`` (Luong et al., section 3), and not inside the recurrence. The whole target is then
computed by one call of an optimized recurrent kernel and one matrix multiplication.

    input_ids, attention_mask (1 = keep): (batch, source)
    decoder_input_ids: (batch, target), the target shifted right, after a start token
    -> logits (batch, target, vocab_size)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from ...generation.keras_decoder import Generating
from ...layers.core import Dense
from ...layers.dropout import Dropout
from ...layers.embedding import TokenEmbedding
from ...layers.recurrent import CELLS
from ...layers.recurrent_attention import recurrent_attention
from ...signature import Graph, Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config, choice, rate, size, token
from ..registry import register

State = list[Tensor]  # h and c of every LSTM layer, or h of every GRU layer: (batch, hidden_dim) each


@dataclass(frozen=True)
class Seq2SeqConfig(Config):
    """Config of ``Seq2Seq``. The defaults are the sizes of Luong et al. with the score of Bahdanau et al.

    Attributes:
        vocab_size: vocabulary size of both source and target.
        num_layers: number of recurrent layers of the encoder, and of the decoder.
        hidden_dim: size of a recurrent state; in a bidirectional encoder, of both directions together.
        embedding_dim: size of the embeddings of source and target. Default: `hidden_dim`.
        cell: "lstm" or "gru".
        bidirectional: whether the encoder reads the source in both directions.
        attention: the score: "additive" (or "concat", Luong's name of the same function), "general" or "dot"; None for
            no attention.
        max_length: maximum length of the source and of the target.
        dropout: dropout rate between layers, in training only.
        decoder_start_token_id, eos_token_id, pad_token_id: the tokens that begin and end a target, and pad it.
    """

    vocab_size: int = size(32_000)
    num_layers: int = size(1)
    hidden_dim: int = size(1000)
    embedding_dim: int | None = size(None, derived=lambda c: c.hidden_dim)
    cell: str = choice("lstm", CELLS)
    bidirectional: bool = True
    attention: str | None = choice("additive", ("additive", "concat", "general", "dot", None))
    max_length: int = size(1024)
    dropout: float = rate(0.0)
    decoder_start_token_id: int = token(1)
    eos_token_id: int | None = token(2)
    pad_token_id: int | None = token(0)

    def check(self) -> None:
        if self.bidirectional and self.hidden_dim % 2:
            raise ValueError(f"hidden_dim: got {self.hidden_dim}; accepted: an even number, half for each direction")

    def least_parameters(self) -> int:
        return self.vocab_size * (self.embedding_dim or 0) + self.num_layers * self.hidden_dim**2


@register
class Seq2Seq(Generating, ZooModel):
    """A recurrent encoder-decoder: ``Seq2Seq(hidden_dim=256)``, ``Seq2Seq(config)`` or ``az.create("seq2seq")``.

    The module docstring lists the inputs and outputs. The intermediates are ``encoder_hidden_states``,
    ``decoder_hidden_states`` and ``cross_attentions``, a tuple of one (batch, target, source) tensor, the alignment.
    """

    family: ClassVar[str] = "seq2seq"
    tasks: ClassVar[Mapping[str | None, str]] = {None: "text2text-generation"}
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
        self.dropout = Dropout(c.dropout, name="dropout", **shared)
        self.lm_head = Dense(c.vocab_size, name="lm_head", **shared)

    def build(self, input_shape: Any = None) -> None:
        c = self.config
        build_each((None, None), self.embedding, self.decoder_embedding)
        stacks = (self.forward_layers, self.backward_layers, self.decoder_layers)
        build_each((None, None, c.embedding_dim), self.dropout, *(layer for stack in stacks for layer in stack[:1]))
        build_each((None, None, c.hidden_dim), *(layer for stack in stacks for layer in stack[1:]), self.lm_head)
        if self.attention is not None and self.combine is not None:
            self.attention.build(*[(None, None, c.hidden_dim)] * 2)
            self.combine.build((None, None, 2 * c.hidden_dim))

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        named = self.named_inputs(inputs)
        mask = named.get("attention_mask")
        encoder_seen, decoder_seen = (Intermediates(output_hidden_states, output_attentions) for _ in range(2))
        encoded, state = self.encode(named["input_ids"], mask, encoder_seen, training)
        x, _ = self.decode(named["decoder_input_ids"], state, encoded, mask, None, decoder_seen, training)
        return self.finish(self.head(x), encoder_seen.named("encoder_"), decoder_seen.named("decoder_"))

    def encode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> tuple[Tensor, State]:
        """Return the encoder's outputs, (batch, source, hidden_dim), for `ids` (batch, source), and its final state.

        The decoder starts from this state.
        """
        seen = intermediates or Intermediates()
        mask = None if mask is None else ops.cast(mask, "bool")
        x = self.dropout(self.embedding(ids), training=training)  # (B, S, E)
        seen.hidden_states.append(x)
        state: State = []
        for i, forward in enumerate(self.forward_layers):
            x = x if i == 0 else self.dropout(x, training=training)
            x, *last = self._both_ways(i, forward, x, mask, training)  # (B, S, D)
            state += last
            seen.hidden_states.append(x)
        return x, state

    def _both_ways(self, i: int, forward: Any, x: Tensor, mask: Tensor | None, training: bool | None) -> list[Tensor]:
        outputs = forward(x, mask=mask, training=training)
        if not self.backward_layers:
            return list(outputs)
        backward = self.backward_layers[i](x, mask=mask, training=training)
        backward = [ops.flip(backward[0], axis=1), *backward[1:]]  # its outputs start with the last token
        return [ops.concatenate(pair, axis=-1) for pair in zip(outputs, backward, strict=True)]

    def decode(
        self,
        ids: Tensor,
        state: Sequence[Tensor],
        encoded: Tensor | None,
        encoder_mask: Tensor | None,
        encoder_keys: Tensor | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> tuple[Tensor, State]:
        """Return the decoder's outputs, (batch, target, hidden_dim), for `ids` (batch, target), and its final state.

        `encoder_keys` is the result of ``attention.prepare(encoded)``. Default: it is computed.
        """
        seen = intermediates or Intermediates()
        x = self.dropout(self.decoder_embedding(ids), training=training)  # (B, T, E)
        seen.hidden_states.append(x)
        parts = len(state) // len(self.decoder_layers)  # tensors in the state of one layer: 2 for LSTM, 1 for GRU
        after: State = []
        for i, layer in enumerate(self.decoder_layers):
            x, *last = layer(x, initial_state=list(state[i * parts : (i + 1) * parts]), training=training)  # (B, T, D)
            after += last
            seen.hidden_states.append(x)
            x = self.dropout(x, training=training)
        if self.attention is not None and self.combine is not None:
            context, scores = self.attention(
                x, encoded, key_mask=encoder_mask, keys=encoder_keys, return_attention_scores=True
            )  # (B, T, D), (B, T, S)
            seen.cross_attentions.append(scores)
            x = self.dropout(self.combine(ops.concatenate([context, x], axis=-1)), training=training)
        return x, after

    def head(self, x: Tensor) -> Tensor:
        """Return the logits (..., vocab_size) for decoder outputs (..., hidden_dim), in float32."""
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
            encoded, state = self.encode(inputs["input_ids"], inputs["attention_mask"], training=False)
            found = {f"past_state.{name}": part for name, part in zip(names, state, strict=True)}
            if states:
                found["encoder_hidden_states"] = encoded
            if len(states) > 1:
                found["encoder_keys"] = self.attention.prepare(encoded)
            return found

        def decode(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            x, state = self.decode(
                inputs["decoder_input_ids"],
                [inputs[f"past_state.{name}"] for name in names],
                inputs.get("encoder_hidden_states"),
                inputs.get("encoder_attention_mask"),
                inputs.get("encoder_keys"),
                training=False,
            )
            present = {f"present_state.{name}": part for name, part in zip(names, state, strict=True)}
            return {"logits": self.head(x), **present}

        def specs(prefix: str) -> list[TensorSpec]:
            return [TensorSpec(f"{prefix}.{name}", "float32", ("batch", c.hidden_dim)) for name in names]

        step = ("batch", 1)  # a recurrent decoder processes one token per call
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
