"""GPT: the decoder-only Transformer, from GPT-2 to Llama-style models.

Radford et al. 2019 (GPT-2): learned positions, LayerNorm before each branch, GELU by tanh, tied head. Touvron et al.
2023 (arXiv:2302.13971, Llama) changes four words of the config: rotary positions, RMSNorm, SwiGLU, no biases; grouped
key/value heads came with arXiv:2305.13245, the sliding window with Mistral (arXiv:2310.06825). Positions are counted
along the attention mask, so that padding on either side moves nothing.

    input_ids (batch, sequence), attention_mask (batch, sequence), 1 = keep -> logits (batch, sequence, vocab_size)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
from keras import ops

from ...generation.keras_decoder import Generating
from ...layers.blocks import TransformerBlock
from ...layers.cache import DynamicCache, Places, StaticCache, causal_places
from ...layers.core import NORMALIZATIONS, Dense
from ...layers.embedding import TokenEmbedding
from ...layers.position import check_position, place, position_layer
from ...layers.rotary import check_scaling
from ...signature import Graph, Signature, TensorSpec
from ..base import Config, Tensor, ZooModel
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

    vocab_size: int = 50257
    num_layers: int = 12
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
    hidden_dim: int = 768
    intermediate_dim: int | None = None
    max_length: int = 1024
    position: str = "learned"
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    sliding_window: int | None = None
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-5
    activation: str = "gelu_tanh"
    use_bias: bool = True
    use_qkv_bias: bool | None = None
    use_feedforward_bias: bool | None = None
    qk_norm: bool = False
    tie_embeddings: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    head: str | None = "causal_lm"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        self._positive("vocab_size", "num_layers", "num_heads", "hidden_dim", "max_length")
        if self.head_dim is None:
            self._divides("num_heads", "hidden_dim")
        self._default("num_kv_heads", self.num_heads)
        self._default("head_dim", self.hidden_dim // self.num_heads)
        self._default("intermediate_dim", 4 * self.hidden_dim)
        self._default("use_qkv_bias", self.use_bias)
        self._default("use_feedforward_bias", self.use_bias)
        self._positive("num_kv_heads", "head_dim", "intermediate_dim")
        self._divides("num_kv_heads", "num_heads")
        check_position(self.position, hidden_dim=self.hidden_dim, head_dim=self.head_dim or 0)
        object.__setattr__(self, "rope_scaling", check_scaling(self.rope_scaling))
        if self.sliding_window is not None:
            self._positive("sliding_window")
        self._choice("norm", tuple(NORMALIZATIONS))
        self._choice("head", ("causal_lm", None))
        self._rates("dropout", "attention_dropout")
        self._tokens("bos_token_id", "pad_token_id")
        self._tokens("eos_token_id", several=True)


@register
class GPT(Generating, ZooModel):
    """``GPT(num_layers=4, hidden_dim=256)``, ``GPT(config)`` or ``az.create("gpt2")``. See the module and ``ZooModel``.

    Returns logits (batch, sequence, vocab_size), or with ``head=None`` a dict with
    ``last_hidden_state`` (batch, sequence, hidden_dim).
    """

    family: ClassVar[str] = "gpt"
    config_class: ClassVar[type[Config]] = GPTConfig

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        initializer = keras.initializers.RandomNormal(stddev=c.initializer_range)
        self.embedding = TokenEmbedding(
            c.vocab_size, c.hidden_dim, embeddings_initializer=initializer.clone(), name="embedding", **shared
        )
        self.position_layer = position_layer(
            c.position,
            hidden_dim=c.hidden_dim,
            head_dim=c.head_dim,
            num_heads=c.num_heads,
            max_length=c.max_length,
            theta=c.rope_theta,
            scaling=c.rope_scaling,
            initializer=initializer.clone(),
            name="positions",
            **shared,
        )
        self.dropout = keras.layers.Dropout(c.dropout, name="dropout", **shared)
        self.blocks = [
            TransformerBlock(
                c.num_heads,
                c.intermediate_dim,
                num_kv_heads=c.num_kv_heads,
                head_dim=c.head_dim,
                rotary_interleaved=c.position == "rotary_interleaved",
                activation=c.activation,
                use_bias=c.use_qkv_bias,
                use_output_bias=c.use_bias,
                use_feedforward_bias=c.use_feedforward_bias,
                qk_norm=c.qk_norm,
                norm=c.norm,
                norm_epsilon=c.norm_epsilon,
                dropout=c.dropout,
                attention_dropout=c.attention_dropout,
                kernel_initializer=initializer,
                name=f"block_{i}",
                **shared,
            )
            for i in range(c.num_layers)
        ]
        self.final_norm = NORMALIZATIONS[c.norm](epsilon=c.norm_epsilon, name="final_norm", **shared)
        self.lm_head: Any = None
        if c.head == "causal_lm" and not c.tie_embeddings:
            self.lm_head = Dense(
                c.vocab_size, use_bias=False, kernel_initializer=initializer.clone(), name="lm_head", **shared
            )

    def build(self, input_shape: Any = None) -> None:
        states = (None, None, self.config.hidden_dim)
        self.embedding.build((None, None))
        if self.position_layer is not None:
            self.position_layer.build((None, None))
        for block in self.blocks:
            block.build(states)
        self.final_norm.build(states)
        if self.lm_head is not None:
            self.lm_head.build(states)

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
        spec = self.signature
        if cache is not None:  # the mask's width is the number of slots, which the cache knows
            spec = replace(self.decoder_signature(), sums={}, limits=spec.limits)
        named = self.named_inputs(inputs, spec)
        ids, mask = named["input_ids"], named.get("attention_mask")
        places = causal_places(ops.shape(ids)[1], mask, named.get("position_ids"), cache, self.config.sliding_window)
        x, intermediates = self.states(
            ids, places, mask, cache, output_hidden_states, output_attentions, training=training
        )
        return self.finish(self.head(x), intermediates)

    def states(
        self,
        ids: Tensor,
        places: Places,
        mask: Tensor | None = None,
        cache: DynamicCache | StaticCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """(batch, T, hidden_dim) states after the last normalisation, and the intermediates asked for."""
        placed = place(self.position_layer, places.queries, places.keys)
        x = self.embedding(ids)  # (B, T, D)
        if "added" in placed:
            x = x + placed.pop("added")
        x = self.dropout(x, training=training)
        seen = {"attention_mask": places.visible}
        if places.visible is None:
            seen = {"key_mask": mask, "use_causal_mask": True}
        x, intermediates = self.run_blocks(
            x, output_hidden_states, output_attentions, cache, **seen, **placed, training=training
        )
        return self.final_norm(x), intermediates

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

    def decoder_signature(self) -> Signature:
        """One call with a cache that grows: new tokens behind `past_sequence` others."""
        c, spec = self.config, self.signature
        ids, mask, positions = spec.inputs
        past = self._cache_specs("past_key_values.{}.{}", "past_sequence")
        present = self._cache_specs("present.{}.{}", "total_sequence")
        return replace(
            spec,
            inputs=(ids, replace(mask, dims=("batch", "total_sequence")), positions, *past),
            outputs=(*spec.outputs, *present),
            limits={**spec.limits, "total_sequence": c.max_length},
            defaults={**spec.defaults, "past_sequence": 0},
            sums={"total_sequence": ("past_sequence", "sequence")},
            state={old.name: new.name for old, new in zip(past, present, strict=True)},
        )

    def _cache_specs(self, name: str, slots: str) -> list[TensorSpec]:
        c = self.config
        dims = ("batch", c.num_kv_heads, slots, c.head_dim)
        parts = [(i, part) for i in range(c.num_layers) for part in ("key", "value")]
        return [TensorSpec(name.format(*part), "float32", dims, optional=True) for part in parts]

    def graphs(self, kind: str = "dynamic") -> dict[str, Graph]:
        """As ``ZooModel.graphs``. "static" gives the logits of the last token only; "litert" is LiteRT-LM's way of it,
        where whoever runs the file numbers the positions and makes the mask."""
        makers = {"dynamic": self._dynamic, "static": self._static, "litert": self._litert}
        if self.config.head is None or kind not in makers:
            return super().graphs(kind)
        return {"decoder": makers[kind]()}

    @property
    def generates(self) -> bool:
        return self.config.head == "causal_lm"

    def _dynamic(self) -> Graph:
        signature = self.decoder_signature().exported()

        def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            cache = DynamicCache(_pairs([inputs[name] for name in signature.state]))
            mask = inputs["attention_mask"]
            ids = inputs["input_ids"]
            places = causal_places(ops.shape(ids)[1], mask, None, cache, self.config.sliding_window)
            x, _ = self.states(ids, places, cache=cache, training=False)
            return {"logits": self.head(x), **_named(signature.state.values(), cache)}

        return Graph(signature, function)

    def _static(self) -> Graph:
        c, spec = self.config, self.signature
        past, present = (self._cache_specs(f"{name}.{{}}.{{}}", "slots") for name in ("past_key_values", "present"))
        state = {old.name: new.name for old, new in zip(past, present, strict=True)}
        signature = Signature(
            (
                spec.inputs[0],
                TensorSpec("cache_position", "int32", (1,), below=c.max_length),
                TensorSpec("attention_mask", "int32", ("batch", "slots"), below=2),
                *past,
            ),
            (TensorSpec("logits", "float32", ("batch", 1, c.vocab_size)), *present),
            state=state,
        )

        def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            cache = StaticCache(_pairs([inputs[name] for name in state]), inputs["cache_position"][0])
            ids = inputs["input_ids"]
            mask = inputs["attention_mask"]
            places = causal_places(ops.shape(ids)[1], mask, None, cache, c.sliding_window)
            x, _ = self.states(ids, places, cache=cache, training=False)
            return {"logits": self.head(x[:, -1:]), **_named(state.values(), cache)}

        return Graph(signature, function)

    def _litert(self) -> Graph:
        c = self.config
        names = [f"kv_cache_{part}_{i}" for i in range(c.num_layers) for part in ("k", "v")]
        dims = ("batch", c.num_kv_heads, "slots", c.head_dim)
        caches = [TensorSpec(name, "float32", dims) for name in names]
        signature = Signature(
            (
                TensorSpec("tokens", "int32", ("batch", "sequence"), below=c.vocab_size),
                TensorSpec("input_pos", "int32", ("sequence",), below=c.max_length),
                TensorSpec("mask", "bool", ("batch", 1, "sequence", "slots")),
                *caches,
            ),
            (TensorSpec("logits", "float32", ("batch", "sequence", c.vocab_size)), *caches),
            limits={"slots": c.max_length, "sequence": c.max_length},
            state={name: name for name in names},
        )

        def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            positions = inputs["input_pos"]
            cache = StaticCache(_pairs([inputs[name] for name in names]), positions[0])
            keys = ops.arange(cache.slots(0), dtype="int32")
            visible = inputs["mask"][:, 0]  # (1, T, S)
            if c.sliding_window is not None:
                back = ops.expand_dims(ops.expand_dims(positions, 1) - ops.expand_dims(keys, 0), 0)  # (1, T, S)
                visible = ops.logical_and(visible, back < c.sliding_window)
            places = Places(ops.expand_dims(positions, 0), ops.expand_dims(keys, 0), visible)
            x, _ = self.states(inputs["tokens"], places, cache=cache, training=False)
            return {"logits": self.head(x), **_named(names, cache)}

        return Graph(signature, function)

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


def _pairs(flat: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _named(names: Iterable[str], cache: DynamicCache | StaticCache) -> dict[str, Tensor]:
    return dict(zip(names, [part for pair in cache.state for part in pair], strict=True))
