"""Tables of Llama and of models with its names: Mistral, Qwen, Phi-3, Granite, SmolLM3, Gemma, OLMo, GLM, Cohere, …"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....layers.feedforward import GATED
from ....weights.rules import Dialect, Field, Rule, layer_norm, linear
from ....weights.transforms import joined
from ...huggingface import HF_ACTIVATIONS, flag, integer, labels, number
from ...huggingface_layers import (
    layers_of,
    read_kinds,
    read_qwen,
    read_rope,
    write_kinds,
    write_qwen,
    write_rope,
)
from ...sentence_transformers import PROJECTION_RULES
from ..config import GPTConfig
from .common import QUIET, each, heads_of, reading, shortest_inverse, special_ids

NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "feedforward_norm"}


def llama_rules(
    norms: Mapping[str, str] = NORMS,
    *,
    with_bias: bool = False,
    final_norm: str = "norm",
    join_qkv: bool = False,
    join_gate: bool = False,
    output: str = "o_proj",
    up: str = "up_proj",
    down: str = "down_proj",
) -> tuple[Rule, ...]:
    """Return the rules for a decoder with Llama's names.

    Args:
        norms: this package's name of each norm of a block, by its name in the file.
        with_bias: whether the norms are layer normalizations, instead of RMS normalizations.
        final_norm: the name of the last norm.
        join_qkv, join_gate: whether queries, keys and values, and gate and up projection, are one tensor each.
        output, up, down: names of these projections.
    """

    def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
        return layer_norm(theirs, ours) if with_bias else (Rule(f"{theirs}.weight", f"{ours}/scale"),)

    attention, mlp, together = "layers.{i}.self_attn.", "layers.{i}.mlp.", joined(0, transposed=True)
    qkv = [
        rule
        for part in ("query", "key", "value")
        for rule in linear(f"{attention}{part[0]}_proj", f"block_{{i}}/attention/{part}")
    ]
    gates = [
        *linear(f"{mlp}gate_proj", "block_{i}/feedforward/gate"),
        *linear(f"{mlp}{up}", "block_{i}/feedforward/up"),
    ]
    if join_qkv:
        qkv = [Rule(f"{attention}qkv_proj.weight", each("block_{i}/attention/{}/kernel"), together)]
    if join_gate:
        both = tuple(f"block_{{i}}/feedforward/{part}/kernel" for part in ("gate", "up"))
        gates = [Rule(f"{mlp}gate_up_proj.weight", both, together)]
    return (
        Rule("embed_tokens.weight", "embedding/embeddings"),
        *(rule for theirs, ours in norms.items() for rule in norm(f"layers.{{i}}.{theirs}", f"block_{{i}}/{ours}")),
        *qkv,
        *linear(f"{attention}{output}", "block_{i}/attention/output"),
        Rule(f"{attention}q_norm.weight", "block_{i}/attention/query_norm/scale"),
        Rule(f"{attention}k_norm.weight", "block_{i}/attention/key_norm/scale"),
        *gates,
        *linear(f"{mlp}{down}", "block_{i}/feedforward/down"),
        *norm(final_norm, "final_norm"),
        *linear("lm_head", "lm_head", outside=True),
        *linear("score", "classifier", outside=True),
        *PROJECTION_RULES,
    )


def rope(max_length: int, theta: float = 10_000.0, partial: float | None = None) -> Any:
    return lambda raw: read_rope(raw, max_length, theta, partial)


def writing_gated(c: GPTConfig, rope: Mapping[str, Any] | None = None, entry: str = "hidden_act") -> dict[str, Any]:
    names = {**HF_ACTIVATIONS, "gelu_tanh": "gelu_pytorch_tanh"}
    return {entry: names[GATED[c.activation]], **(write_rope(c) if rope is None else rope), **labels(c)}


def partial_rope(c: GPTConfig) -> dict[str, Any]:
    return write_rope(c, partial=True)


LLAMA = Dialect(
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("num_hidden_layers", "num_layers"),
        Field("num_attention_heads", "num_heads"),
        Field("num_key_value_heads", "num_kv_heads", None),
        Field("head_dim", "head_dim", None),
        Field("hidden_size", "hidden_dim"),
        Field("intermediate_size", "intermediate_dim"),
        Field("max_position_embeddings", "max_length", 2048),
        Field("rms_norm_eps", "norm_epsilon", 1e-6),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("tie_word_embeddings", "tie_embeddings", False),
        Field("attention_bias", "use_bias", False),
        Field("mlp_bias", "use_feedforward_bias", False),
        *special_ids(1, 2),
    ),
    fixed={"position": "rotary", "norm": "rms_norm"},
    read=reading("silu", gated=True, more=rope(2048)),
    write=writing_gated,
    rules=llama_rules(),
    prefix="model.",
    silent=QUIET,
    ignored=(r"rotary_emb\.inv_freq$",),
    tied={"lm_head.weight": "embed_tokens.weight"},
    output="lm_head.weight",
    **heads_of("Llama"),
)


def fields_with(*changed: Field, without: tuple[str, ...] = ()) -> tuple[Field, ...]:
    """Return the entries of Llama's config without the fields `without`, and with `changed` replaced or added."""
    others = {entry.ours: entry for entry in changed}
    kept = [others.pop(entry.ours, entry) for entry in LLAMA.fields if entry.ours not in without]
    return (*kept, *others.values())


def like(base: Dialect, name: str, *without: str, fixed: Mapping[str, Any] | None = None, **changes: Any) -> Dialect:
    """Return a dialect like `base` for the classes of transformers that begin with `name`."""
    return replace(base, fixed={**base.fixed, **(fixed or {})}, **heads_of(name, *without), **changes)


def longest(default: int) -> Field:
    return Field("max_position_embeddings", "max_length", default)


def kv_heads(default: int | None) -> Field:
    return Field("num_key_value_heads", "num_kv_heads", default, nullable=True)


NO_BIAS = ("use_bias", "use_feedforward_bias")
NO_CLASSES = ("sequence_classification", "token_classification")
_QKV_BIAS = Field("attention_bias", "use_qkv_bias", False)

MISTRAL = like(
    LLAMA,
    "Mistral",
    fields=fields_with(
        kv_heads(8), longest(131_072), Field("sliding_window", "sliding_window", 4096, nullable=True), without=NO_BIAS
    ),
    fixed={"use_bias": False},
    read=reading("silu", gated=True, more=rope(131_072)),
)
MINISTRAL = like(
    MISTRAL,
    "Ministral",
    fields=fields_with(kv_heads(8), longest(131_072), without=NO_BIAS),
    read=reading(
        "silu",
        gated=True,
        more=lambda raw: {
            **read_rope(raw, 131_072),
            **read_kinds(raw, [raw.get("sliding_window", 4096) is not None] * len(layers_of(raw)), window=4096),
        },
    ),
    write=lambda c: {**writing_gated(c), **write_kinds(c)},
)
_QWEN = (kv_heads(32), longest(32_768), *special_ids(None, None))
QWEN3 = like(
    LLAMA,
    "Qwen3",
    fields=fields_with(*_QWEN, Field("head_dim", "head_dim", 128), without=("use_feedforward_bias",)),
    fixed={"use_feedforward_bias": False, "qk_norm": True},
    read=reading("silu", gated=True, more=lambda raw: {**read_rope(raw, 32_768), **read_qwen(raw)}),
    write=lambda c: {**writing_gated(c), **write_qwen(c)},
)
QWEN2 = like(
    LLAMA,
    "Qwen2",
    fields=fields_with(*_QWEN, without=NO_BIAS),
    fixed={"use_bias": False, "use_qkv_bias": True},
    read=QWEN3.read,
    write=QWEN3.write,
)
HELIUM = like(
    LLAMA,
    "Helium",
    fields=fields_with(
        *(Field("head_dim", "head_dim", 128), longest(4096), Field("rms_norm_eps", "norm_epsilon", 1e-8), _QKV_BIAS),
        *special_ids(1, 2, 3),
        without=("use_bias",),
    ),
    fixed={"position": "rotary_interleaved", "use_bias": False},
    read=reading("silu", gated=True, more=rope(4096, 100_000.0)),
)
SEED_OSS = like(
    LLAMA,
    "SeedOss",
    fields=fields_with(
        Field("num_key_value_heads", "num_kv_heads", 8, nullable=True),
        Field("head_dim", "head_dim", 128, nullable=True),
        longest(524_288),
        Field("attention_bias", "use_qkv_bias", True),
        Field("attention_out_bias", "use_output_bias", False),
        Field("residual_dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.1),
        *special_ids(0, 2, 1),
        without=("use_bias",),
    ),
    fixed={"use_bias": False},
    read=reading("silu", gated=True, more=rope(524_288)),
)
ERNIE4_5 = like(
    LLAMA,
    "Ernie4_5",
    *NO_CLASSES,
    fields=fields_with(
        *(kv_heads(2), Field("head_dim", "head_dim", 128), longest(131_072), Field("use_bias", "use_bias", False)),
        *(Field("rms_norm_eps", "norm_epsilon", 1e-5), Field("tie_word_embeddings", "tie_embeddings", True)),
        *special_ids(1, 2, 0),
        without=NO_BIAS,
    ),
    fixed={"position": "rotary_interleaved"},
    read=reading("silu", gated=True, more=rope(131_072, 500_000.0)),
)
PHI3 = like(
    MISTRAL,
    "Phi3",
    fields=fields_with(
        *(kv_heads(None), longest(4096), Field("sliding_window", "sliding_window", None, nullable=True)),
        *(Field("rms_norm_eps", "norm_epsilon", 1e-5), Field("resid_pdrop", "dropout", 0.0)),
        *special_ids(1, 32_000, 32_000),
        without=NO_BIAS,
    ),
    read=reading("silu", gated=True, more=rope(4096, partial=1.0)),
    write=lambda c: {**writing_gated(c, partial_rope(c)), "embd_pdrop": c.dropout},
    rules=llama_rules(join_qkv=True, join_gate=True),
)
GRANITE = like(
    LLAMA,
    "Granite",
    *NO_CLASSES,
    fields=fields_with(
        Field("embedding_multiplier", "embedding_scale", 1.0),
        Field("residual_multiplier", "residual_scale", 1.0),
        Field("attention_multiplier", "attention_scale", 1.0),
    ),
    read=reading(
        "silu",
        gated=True,
        more=lambda raw: {**read_rope(raw), "logits_scale": 1 / (number(raw, "logits_scaling", 1.0) or 1.0)},
    ),
    write=lambda c: {**writing_gated(c), "logits_scaling": shortest_inverse(c.logits_scale)},
)


def _read_smollm3(raw: Mapping[str, Any]) -> dict[str, Any]:
    rotated, layers = raw.get("no_rope_layers"), layers_of(raw)
    if rotated is None:
        interval = integer(raw, "no_rope_layer_interval", 4) or 1
        rotated = [int((i + 1) % interval != 0) for i in layers]
    if not isinstance(rotated, list) or len(rotated) != len(layers) or not set(rotated) <= {0, 1}:
        raise ValueError(f"no_rope_layers: got {rotated!r}; accepted: 0 or 1 for each of {len(layers)} layers")
    window = raw.get("sliding_window") is not None
    kinds = raw if window else {**raw, "layer_types": None}  # without a window, the kinds have no effect
    used = flag(raw, "use_sliding_window", False) and window  # only has an effect without `layer_types`
    return {
        **read_rope(raw, 32_768, 2_000_000.0),
        **read_kinds(kinds, [used and not each for each in rotated], window=None),
        "unrotated_layers": tuple(i for i in layers if not rotated[i]),
    }


SMOLLM3 = like(
    LLAMA,
    "SmolLM3",
    fields=fields_with(
        *(kv_heads(4), longest(32_768), Field("tie_word_embeddings", "tie_embeddings", True)),
        *special_ids(128_000, 128_001, 128_004),
    ),
    read=reading("silu", gated=True, more=_read_smollm3),
    write=lambda c: {
        **writing_gated(c),
        **write_kinds(c),
        "use_sliding_window": c.sliding_window is not None,
        "no_rope_layers": [int(i not in c.unrotated_layers) for i in range(c.num_layers)],
    },
)
