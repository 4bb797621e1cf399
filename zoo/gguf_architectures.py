"""The architectures of GGUF files: llama.cpp's names of the config entries and tensors of Hugging Face checkpoints.

An architecture is a table. With the dialect of its Hugging Face model type it gives a dialect of GGUF files, which
reads and writes them: the rules have llama.cpp's names, and the transforms the layouts in which it stores tensors.
``GPT.dialects["gguf"]`` reads files of the architecture "llama"; all others are read by the tables here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import checks
from ..weights.rules import Dialect, Rule
from ..weights.tensors import Shape
from ..weights.transforms import Transform, paired_rows
from .gpt.gguf import read_scaling

Fields = Mapping[str, Any]
Shapes = Mapping[str, Shape]

SIZES = {
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
IDS = {f"{name}_token_id": f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos")}
IDS["pad_token_id"] = "tokenizer.ggml.padding_token_id"
BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMALIZE = "attention_zoo.normalize"  # our own entry: whether sentence embeddings are scaled to unit length
POOLINGS = {1: "mean", 2: "first", 3: "last"}  # llama.cpp's numbers; 0 is none and 4 a classifier


def blocks(parts: Mapping[str, str], theirs: str = "layers.{i}.", own: str = "blk.{i}.") -> dict[str, str]:
    return {theirs + name: own + short for name, short in parts.items()}


DECODER = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", **blocks(BLOCK)}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: llama.cpp's name of it.
        model_type: Hugging Face's name of it.
        keys: key of the metadata, without the architecture's name, by the name of the config entry.
        names: name of the tensor by Hugging Face's, both without ".weight" and ".bias" and with ``{i}`` for the layer.
        heads: the heads of models that are read and written.
        more: function of (metadata, shapes of the tensors) that returns further entries of the Hugging Face config.
        fields: function of the same that returns fields of our config, which replace those of the entries.
        written: function of the Hugging Face config that returns further metadata.
        demanded: keys of the metadata that must have this value or be missing.
        paired: whether the rows of queries and keys are stored in the order of ``paired_rows``.
        turned: keys of `names` whose matrices are stored transposed.
        ignored: regular expressions for names of tensors that may be ignored.
    """

    name: str
    model_type: str
    keys: Mapping[str, str]
    names: Mapping[str, str]
    heads: Sequence[str | None] = ("causal_lm",)
    more: Callable[[Fields, Shapes], dict[str, Any]] = lambda raw, shapes: {}
    fields: Callable[[Fields, Shapes], dict[str, Any]] = lambda raw, shapes: {}
    written: Callable[[Fields], dict[str, Any]] = lambda config: {}
    demanded: Mapping[str, Any] = field(default_factory=dict)
    paired: bool = False
    turned: Collection[str] = ()
    ignored: Sequence[str] = ()

    def key(self, entry: str) -> str | None:
        """Return the whole key of a config entry, or None if the architecture does not have it."""
        return IDS.get(entry) or (f"{self.name}.{self.keys[entry]}" if entry in self.keys else None)

    def raw(self, fields: Fields, shapes: Shapes) -> dict[str, Any]:
        """Return the metadata together with the entries of a Hugging Face config that follow from it.

        Raises:
            ValueError: a key has another value than `demanded`, or the file has no table of tokens.
        """
        for suffix, value in self.demanded.items():
            key = suffix if suffix.startswith("general.") else f"{self.name}.{suffix}"
            if (given := fields.get(key)) is not None and given != value:
                raise ValueError(f"{key}: got {given!r}; accepted: {value!r}")
        if len(shapes.get("token_embd.weight", ())) != 2:
            raise ValueError("token_embd.weight: not in the file; accepted: a table of tokens")
        named = [(entry, str(self.key(entry))) for entry in (*self.keys, *IDS)]
        entries = {entry: fields[key] for entry, key in named if key in fields}
        own = {name.removeprefix(f"{self.name}."): value for name, value in fields.items()}
        entries |= {"vocab_size": shapes["token_embd.weight"][0], **dict.fromkeys(set(IDS) - set(entries))}
        entries["tie_word_embeddings"] = "output.weight" not in shapes
        return {**fields, **entries, **self.more(own, shapes)}

    def head(self, fields: Fields) -> dict[str, Any]:
        """Return the head that the metadata of a file tells, as fields of our config; {} for the usual one.

        Raises:
            ValueError: the pooling type is not supported.
        """
        kind = fields.get(f"{self.name}.pooling_type", 0)
        if kind == 0 or "sentence_embedding" not in self.heads:
            return {}
        if kind not in POOLINGS:
            raise ValueError(f"{self.name}.pooling_type: got {kind!r}; accepted: one of {[0, *POOLINGS]}")
        return {"head": "sentence_embedding", "pooling": POOLINGS[kind], "normalize": fields.get(NORMALIZE) is True}

    def dialect(self, theirs: Dialect, fields: Fields | None = None) -> Dialect:
        """Return the dialect of GGUF files for `theirs`, the dialect of Hugging Face checkpoints.

        Args:
            theirs: the dialect.
            fields: the metadata of the file to read. Entries that it has keep its names in messages.
        """
        given = fields or {}
        backwards = {own: name for name, own in self.names.items()}

        def their_names(names: Collection[str]) -> list[str]:
            stems = [(name.rpartition("."), name) for name in names]
            return [f"{backwards.get(stem, stem)}.{end}" for (stem, _, end), _ in stems]

        def read(raw: Fields, shapes: Any) -> dict[str, Any]:
            own = {name.removeprefix(f"{self.name}."): value for name, value in raw.items()}
            return {**theirs.read(raw, their_names(shapes)), **self.fields(own, shapes)}

        def rules(config: Any) -> tuple[Rule, ...]:
            return tuple(self._rule(rule, config) for rule in theirs.all_rules(config))

        copies = {self._renamed(copy): self._renamed(of) for copy, of in theirs.tied.items()}
        named = [
            replace(entry, theirs=key, synonym=None) if key is not None and key in given else entry
            for entry in theirs.fields
            for key in [self.key(entry.theirs)]
        ]
        return replace(
            theirs,
            fields=tuple(named),
            rules=rules,
            read=read,
            prefix="",
            aliases={},
            unused={},
            ignored=(r"^rope_freqs\.weight$", r"^blk\.\d+\.attn_rot_embd", *self.ignored),
            tied=copies,
            output=None if theirs.output is None else self._renamed(theirs.output),
        )

    def _renamed(self, name: str) -> str:
        stem, _, end = name.rpartition(".")
        return f"{self.names[stem]}.{end}" if stem in self.names else name

    def _rule(self, rule: Rule, config: Any) -> Rule:
        name = self._renamed(rule.theirs)
        transform, stem = rule.transform, rule.theirs.rpartition(".")[0]
        if self.paired and name.startswith("blk.{i}.attn_") and name.rpartition(".")[0].endswith(("attn_q", "attn_k")):
            heads = config.num_heads if "attn_q" in name else config.num_kv_heads or config.num_heads
            transform = paired_rows(heads)
        elif stem in self.turned and name.endswith(".weight"):
            transform = turned(transform)
        return replace(rule, theirs=name, transform=transform)


def turned(transform: Transform) -> Transform:
    """Return the transform of a matrix that GGUF files store transposed, compared to Hugging Face checkpoints."""
    return Transform(
        lambda theirs, shapes: transform.load(theirs.T, shapes),
        lambda ours: np.ascontiguousarray(transform.save(ours).T),
        lambda shapes: transform.shape(shapes)[::-1],
    )


# What the files do not say.


def _decoder(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    """Return the entries of decoders that llama.cpp derives if they are missing."""
    heads, width = raw.get("attention.head_count"), raw.get("embedding_length")
    found: dict[str, Any] = {}
    if not checks.is_integer(heads) or heads < 1:
        raise ValueError(f"attention.head_count: got {heads!r}; accepted: a positive integer")
    if checks.is_integer(width):
        found = {"head_dim": raw.get("attention.key_length", width // heads)}
        found["num_key_value_heads"] = raw.get("attention.head_count_kv", heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if found and raw.get(name, found["head_dim"]) != found["head_dim"]:
            raise ValueError(f"{name}: got {raw[name]}; accepted: {found['head_dim']}")
    return {**found, "rope_theta": raw.get("rope.freq_base", 10_000.0), "architectures": None}


def _rotary(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    """Return the scaling of the positions."""
    heads, width = raw["attention.head_count"], raw["embedding_length"]
    size = raw.get("attention.key_length", width // heads)
    return {"rope_scaling": read_scaling(raw, size, raw.get("rope.freq_base", 10_000.0), "")}


def _bert(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    types = shapes.get("token_types.weight", (0,))[0]
    rows = shapes.get("position_embd.weight", (raw.get("context_length"),))[0]
    return {"type_vocab_size": types, "max_position_embeddings": rows, "hidden_act": "gelu", "architectures": None}


def _nomic(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    rows = raw.get("context_length")
    theta = raw.get("rope.freq_base", 10_000.0)
    return {**_bert(raw, shapes), "max_position_embeddings": rows, "hidden_act": "silu", "rope_theta": theta}


def _bert_written(config: Fields, name: str = "bert") -> dict[str, Any]:
    return {f"{name}.attention.causal": False, "tokenizer.ggml.token_type_count": config["type_vocab_size"]}


def _t5(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    gated = "enc.blk.0.ffn_gate.weight" in shapes
    start = raw.get("decoder_start_token_id", 0)
    feed = "gated-gelu" if gated else "relu"
    return {"feed_forward_proj": feed, "decoder_start_token_id": start, "relative_attention_max_distance": 128}


def _t5_names() -> dict[str, str]:
    found = {"shared": "token_embd", "lm_head": "output"}
    for stack, short in (("encoder", "enc"), ("decoder", "dec")):
        theirs, own = f"{stack}.block.{{i}}.layer.", f"{short}.blk.{{i}}."
        cross = stack == "decoder"
        attentions = {"0.SelfAttention": "attn", **({"1.EncDecAttention": "cross_attn"} if cross else {})}
        for name, ours in attentions.items():
            found |= {f"{theirs}{name}.{part}": f"{own}{ours}_{part}" for part in "qkvo"}
            found[f"{theirs}{name[0]}.layer_norm"] = f"{own}{ours}_norm"
        last = 1 + cross
        inner = {"wi": "ffn_up", "wi_0": "ffn_gate", "wi_1": "ffn_up", "wo": "ffn_down"}
        found |= {f"{theirs}{last}.DenseReluDense.{part}": own + ours for part, ours in inner.items()}
        found[f"{theirs}{last}.layer_norm"] = f"{own}ffn_norm"
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
        found |= {table: f"{short}.blk.0.attn_rel_b", f"{stack}.final_layer_norm": f"{short}.output_norm"}
    return found


_BERT_KEYS = {
    **{entry: SIZES[entry] for entry in ("num_hidden_layers", "num_attention_heads", "hidden_size")},
    **{entry: SIZES[entry] for entry in ("intermediate_size", "max_position_embeddings")},
    "layer_norm_eps": "attention.layer_norm_epsilon",
}
_BERT_TABLES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
}
_T5_KEYS = {
    "num_layers": "block_count",
    "num_decoder_layers": "decoder_block_count",
    "num_heads": "attention.head_count",
    "d_kv": "attention.key_length",
    "d_model": "embedding_length",
    "d_ff": "feed_forward_length",
    "n_positions": "context_length",
    "relative_attention_num_buckets": "attention.relative_buckets_count",
    "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
    "decoder_start_token_id": "decoder_start_token_id",
}
_DECODER: dict[str, Any] = {
    "keys": SIZES,
    "names": DECODER,
    "heads": ("causal_lm", "sentence_embedding"),
    "more": _decoder,
    "fields": _rotary,
    "demanded": {"general.type": "model", "expert_count": 0, "attention.causal": True},
}
ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture("llama", "llama", paired=True, **_DECODER),
        Architecture("qwen2", "qwen2", **_DECODER),
        Architecture("qwen3", "qwen3", **_DECODER),
        Architecture(
            "gpt2",
            "gpt2",
            keys={
                "n_layer": "block_count",
                "n_head": "attention.head_count",
                "n_embd": "embedding_length",
                "n_inner": "feed_forward_length",
                "n_positions": "context_length",
                "layer_norm_epsilon": "attention.layer_norm_epsilon",
            },
            names={
                "wte": "token_embd",
                "wpe": "position_embd",
                "ln_f": "output_norm",
                "lm_head": "output",
                **blocks(
                    {
                        "ln_1": "attn_norm",
                        "attn.c_attn": "attn_qkv",
                        "attn.c_proj": "attn_output",
                        "ln_2": "ffn_norm",
                        "mlp.c_fc": "ffn_up",
                        "mlp.c_proj": "ffn_down",
                    },
                    "h.{i}.",
                ),
            },
            demanded={"general.type": "model", "attention.causal": True},
            turned=tuple(f"h.{{i}}.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        ),
        Architecture(
            "bert",
            "bert",
            keys=_BERT_KEYS,
            names={
                **_BERT_TABLES,
                "embeddings.LayerNorm": "token_embd_norm",
                **blocks(
                    {
                        "attention.self.query": "attn_q",
                        "attention.self.key": "attn_k",
                        "attention.self.value": "attn_v",
                        "attention.output.dense": "attn_output",
                        "attention.output.LayerNorm": "attn_output_norm",
                        "intermediate.dense": "ffn_up",
                        "output.dense": "ffn_down",
                        "output.LayerNorm": "layer_output_norm",
                    },
                    "encoder.layer.{i}.",
                ),
            },
            heads=(None, "sentence_embedding"),
            more=_bert,
            written=_bert_written,
            demanded={"general.type": "model", "attention.causal": False},
        ),
        Architecture(
            "nomic-bert",
            "nomic_bert",
            keys={**_BERT_KEYS, "rope_theta": "rope.freq_base"},
            names={
                **_BERT_TABLES,
                "emb_ln": "token_embd_norm",
                **blocks(
                    {
                        "attn.Wqkv": "attn_qkv",
                        "attn.out_proj": "attn_output",
                        "norm1": "attn_output_norm",
                        "mlp.fc11": "ffn_up",
                        "mlp.fc12": "ffn_gate",
                        "mlp.fc2": "ffn_down",
                        "norm2": "layer_output_norm",
                    },
                    "encoder.layers.{i}.",
                ),
            },
            heads=(None, "sentence_embedding"),
            more=_nomic,
            written=lambda config: _bert_written(config, "nomic-bert"),
            demanded={"general.type": "model", "attention.causal": False},
        ),
        Architecture(
            "t5",
            "t5",
            keys=_T5_KEYS,
            names=_t5_names(),
            heads=("seq2seq_lm",),
            more=_t5,
            demanded={"general.type": "model"},
            ignored=(r"^dec\.blk\.\d+\.cross_attn_rel_b\.",),
        ),
        Architecture(
            "t5encoder",
            "t5",
            keys={entry: key for entry, key in _T5_KEYS.items() if not entry.startswith(("num_decoder", "decoder"))},
            names=_t5_names(),
            heads=(None,),
            more=_t5,
            demanded={"general.type": "model"},
        ),
    )
}
