"""GPT: the decoder-only Transformer, from GPT-2 to Llama-style models.

Radford et al. 2019 (GPT-2): learned positions, LayerNorm before each branch, GELU by tanh, tied head. Touvron et al.
2023 (arXiv:2302.13971, Llama) changes four words of the config: rotary positions, RMSNorm, SwiGLU, no biases; grouped
key/value heads came with arXiv:2305.13245, the sliding window with Mistral (arXiv:2310.06825). Positions are counted
along the attention mask, so that padding on either side moves nothing.

    input_ids (batch, sequence), attention_mask (batch, sequence), 1 = keep -> logits (batch, sequence, vocab_size)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
from keras import ops

from ...generation.cached_graphs import KEPT, decoder_graph, kept_logits
from ...generation.keras_decoder import Generating
from ...layers.blocks import TransformerBlock
from ...layers.cache import CausalContext, DynamicCache, StaticCache, causal_context
from ...layers.core import NORMALIZATIONS, Dense, fields_for
from ...layers.embedding import TokenEmbedding
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.position import check_position, encode_positions, position_layer
from ...layers.rotary import check_scaling
from ...signature import Graph, Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config, choice, flag, number, rate, size, token
from ..registry import register


@dataclass(frozen=True)
class GPTConfig(Config):
    """Defaults are GPT-2's smallest.

    Attributes:
        num_kv_heads: key/value heads, a divisor of `num_heads`. Default: `num_heads`.
        head_dim: width of one head. Default: `hidden_dim` / `num_heads`.
        intermediate_dim: width inside the feed-forward. Default: 4 `hidden_dim`.
        max_length: longest sequence.
        position: one word of ``layers.position.POSITIONS``, such as "learned", "rotary", "alibi" or "none".
        rope_theta, rope_scaling: of rotary positions, see ``layers.RotaryEmbedding``.
        sliding_window: how many tokens, its own included, a token looks back to; None for all.
        use_qkv_bias, use_feedforward_bias: biases there, by default as `use_bias` says for all projections.
        qk_norm: normalise every query and key head, as Qwen3.
        head: "causal_lm" for logits, None for the states.
        bos_token_id, eos_token_id, pad_token_id: what begins a text, what ends a generated row (one token or several),
            and what fills it up then; None for nothing.
    """

    vocab_size: int = size(50257)
    num_layers: int = size(12)
    num_heads: int = size(12)
    num_kv_heads: int | None = size(None, derived=lambda c: c.num_heads)
    head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
    hidden_dim: int = size(768)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    max_length: int = size(1024)
    position: str = "learned"
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    sliding_window: int | None = size(None)
    norm: str = choice("layer_norm", NORMALIZATIONS)
    norm_epsilon: float = 1e-5
    activation: str = choice("gelu_tanh", (*ACTIVATIONS, *GATED))
    use_bias: bool = True
    use_qkv_bias: bool | None = None
    use_feedforward_bias: bool | None = None
    qk_norm: bool = False
    tie_embeddings: bool = flag(True, heads=("causal_lm",))
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    initializer_range: float = number(0.02, training=True)
    head: str | None = choice("causal_lm", ("causal_lm", None))
    bos_token_id: int | None = token(None)
    eos_token_id: int | tuple[int, ...] | None = token(None, several=True)
    pad_token_id: int | None = token(None)

    def check(self) -> None:
        for name in ("use_qkv_bias", "use_feedforward_bias"):
            if getattr(self, name) is None:
                self.set(name, self.use_bias)
        self.quotient("num_heads", "num_kv_heads")
        check_position(self.position, hidden_dim=self.hidden_dim, head_dim=self.head_dim or 0)
        self.set("rope_scaling", check_scaling(self.rope_scaling))

    @property
    def rotary_interleaved(self) -> bool:
        return self.position == "rotary_interleaved"

    def least_parameters(self) -> int:
        block = (self.intermediate_dim or 0) + self.num_heads * (self.head_dim or 0)
        rows = self.max_length if self.position == "learned" else 0
        return self.hidden_dim * (self.vocab_size + rows + self.num_layers * block)


@register
class GPT(Generating, ZooModel):
    """``GPT(num_layers=4, hidden_dim=256)``, ``GPT(config)`` or ``az.create("gpt2")``. See the module and ``ZooModel``.

    Returns logits (batch, sequence, vocab_size), or with ``head=None`` a dict with
    ``last_hidden_state`` (batch, sequence, hidden_dim).
    """

    family: ClassVar[str] = "gpt"
    tasks: ClassVar[Mapping[str | None, str]] = {None: "feature-extraction", "causal_lm": "text-generation"}
    config_class: ClassVar[type[Config]] = GPTConfig
    head_parts: ClassVar[tuple[str, ...]] = ("lm_head",)

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        normal = keras.initializers.RandomNormal(stddev=c.initializer_range)
        table = {"embeddings_initializer": normal.clone(), **shared}
        self.embedding = TokenEmbedding(c.vocab_size, c.hidden_dim, name="embedding", **table)
        self.position_layer = position_layer(
            **fields_for(position_layer, c), initializer=normal.clone(), name="positions", **shared
        )
        self.dropout = keras.layers.Dropout(c.dropout, name="dropout", **shared)
        self.blocks = [
            TransformerBlock.from_fields(c, kernel_initializer=normal, name=f"block_{i}", **shared)
            for i in range(c.num_layers)
        ]
        self.final_norm = NORMALIZATIONS[c.norm](epsilon=c.norm_epsilon, name="final_norm", **shared)
        self.lm_head: Any = None
        if c.head == "causal_lm" and not c.tie_embeddings:
            self.lm_head = Dense(
                c.vocab_size, use_bias=False, kernel_initializer=normal.clone(), name="lm_head", **shared
            )

    def build(self, input_shape: Any = None) -> None:
        build_each((None, None), self.embedding, self.position_layer)
        build_each((None, None, self.config.hidden_dim), self.dropout, *self.blocks, self.final_norm, self.lm_head)

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        cache: DynamicCache | StaticCache | None = None,
        training: bool | None = None,
    ) -> Any:
        """With a `cache`, the inputs are the tokens that come after those in it, and `attention_mask` has a column
        for every slot of it; see ``layers/cache.py``."""
        named = self.named_inputs(inputs, self.signature if cache is None else self._signature_behind_a_cache())
        ids, mask = named["input_ids"], named.get("attention_mask")
        context = causal_context(
            ops.shape(ids)[1], mask, named.get("position_ids"), cache, window=self.config.sliding_window
        )
        intermediates = Intermediates(output_hidden_states, output_attentions)
        x = self.hidden_states(ids, context, cache, intermediates, training)
        return self.finish(self.head(x), intermediates.named())

    def hidden_states(
        self,
        ids: Tensor,
        context: CausalContext,
        cache: DynamicCache | StaticCache | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """(batch, T) ids, behind those in `cache`, to (batch, T, hidden_dim) after the last normalisation."""
        positions = encode_positions(self.position_layer, context.query_positions, context.key_positions)
        x = positions.add_to(self.embedding(ids))  # (B, T, D)
        x = self.dropout(x, training=training)
        x = self.run_blocks(
            self.blocks,
            x,
            intermediates or Intermediates(),
            cache=cache,
            **context.masks,
            **positions.in_attention,
            training=training,
        )
        return self.final_norm(x)

    def head(self, x: Tensor) -> Any:
        """(…, hidden_dim) states to (…, vocab_size) logits, or the states themselves, in float32."""
        if self.config.head is None:
            return {"last_hidden_state": ops.cast(x, "float32")}
        if self.lm_head is not None:
            return ops.cast(self.lm_head(x), "float32")
        return self.embedding.project(x)

    @property
    def signature(self) -> Signature:
        c = self.config
        ids = ("batch", "sequence")
        output = TensorSpec("logits", "float32", (*ids, c.vocab_size))
        if c.head is None:
            output = TensorSpec("last_hidden_state", "float32", (*ids, c.hidden_dim))
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", ids, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", ids, below=2, optional=True, fill=1),
                TensorSpec("position_ids", "int32", ids, below=c.max_length, optional=True),
            ),
            outputs=(output,),
            limits={"sequence": c.max_length},
            defaults={"sequence": min(128, c.max_length)},
        )

    def _signature_behind_a_cache(self) -> Signature:
        """Of a call with one, whose length the mask spans."""
        ids, mask, positions = self.signature.inputs
        return replace(self.signature, inputs=(ids, replace(mask, dims=("batch", "total_sequence")), positions))

    def graphs(self, kind: str = "dynamic") -> dict[str, Graph]:
        """As ``ZooModel.graphs``. "static" gives the logits of the last token only, "dynamic" those of as many as
        `num_logits_to_keep` asks for: for a prompt, they can take more memory than everything else."""
        if self.config.head is None or kind not in ("dynamic", "static"):
            return super().graphs(kind)
        static, spec = kind == "static", self.signature
        ids, mask, _ = spec.inputs
        mask = replace(mask, dims=("batch", "slots" if static else "total_sequence"))
        logits = spec.outputs[0]

        def step(inputs: Mapping[str, Tensor], cache: DynamicCache | StaticCache) -> Tensor:
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            context = causal_context(ops.shape(ids)[1], mask, None, cache, window=self.config.sliding_window)
            x = self.hidden_states(ids, context, cache, training=False)
            kept = 1 if static else inputs.get(KEPT, 0)
            return self.head(x[:, -kept:])  # of 0, which is its own negative, all

        graph = decoder_graph(
            step,
            self.blocks,
            (ids, mask) if static else (ids, mask, kept_logits(self.config.max_length)),
            replace(logits, dims=("batch", 1, self.config.vocab_size)) if static else logits,
            static=static,
            limits={**spec.limits, "total_sequence": self.config.max_length},
            defaults=spec.defaults,
        )
        return {"decoder": graph}

    @property
    def generates(self) -> bool:
        return self.config.head == "causal_lm"

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {"vocab_size": 97, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 40}
        llama = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
        return {
            "gpt2": small,
            "llama": {**small, **llama, "num_kv_heads": 2, "head_dim": 12, "intermediate_dim": 44},
            "untied": {**small, "num_kv_heads": 1, "position": "sinusoidal", "tie_embeddings": False},
            "alibi": {**small, "position": "alibi", "sliding_window": 5, "num_heads": 3, "hidden_dim": 24},
            "relative": {**small, "position": "relative", "norm": "rms_norm", "num_kv_heads": 2},
            "gptj": {**small, "position": "rotary_interleaved", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "grid": {**small, "position": "sinusoidal_2d"},
            "qwen": {**small, **llama, "num_kv_heads": 2, "head_dim": 6, "use_qkv_bias": True, "qk_norm": True},
            "backbone": {**small, "position": "none", "head": None},
        }
