"""The class of GGUF architectures: llama.cpp's names of the entries and tensors of Hugging Face checkpoints.

An architecture is a table; all of them are in ``gguf_tables.py``. With the dialect of its Hugging Face model type it
gives a dialect of GGUF files, which reads and writes them: the rules have llama.cpp's names, and the transforms the
layouts in which it stores tensors. ``GPT.dialects["gguf"]`` reads files of the architecture "llama".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..weights.rules import Dialect, Rule
from ..weights.tensors import Shape
from ..weights.transforms import Transform, paired_rows

Fields = Mapping[str, Any]
Shapes = Mapping[str, Shape]

IDS = {f"{name}_token_id": f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos")}
IDS["pad_token_id"] = "tokenizer.ggml.padding_token_id"
NORMALIZE = "attention_zoo.normalize"  # our own entry: whether sentence embeddings are scaled to unit length
ROTARY = ("rope_freqs", "rope_factors_long", "rope_factors_short")  # tensors of the positions, without ".weight"
POOLINGS = {1: "mean", 2: "first", 3: "last"}  # llama.cpp's numbers; 0 is none and 4 a classifier


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
        shifted: whether the weights of norms are stored with 1 added, as Gemma's are used.
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
    shifted: bool = False
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
        """Return the head given by the metadata of a file, as fields of this package's config; {} for the usual head.

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
            ignored=(*(rf"^{name}\.weight$" for name in ROTARY), r"^blk\.\d+\.attn_rot_embd", *self.ignored),
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
        elif self.shifted and name.endswith("norm.weight"):
            transform = SHIFTED
        return replace(rule, theirs=name, transform=transform)


SHIFTED = Transform(lambda theirs, _: [theirs - 1], lambda ours: ours[0] + 1, lambda shapes: shapes[0])


def turned(transform: Transform) -> Transform:
    """Return the transform of a matrix that GGUF files store transposed, compared to Hugging Face checkpoints."""
    return Transform(
        lambda theirs, shapes: transform.load(theirs.T, shapes),
        lambda ours: np.ascontiguousarray(transform.save(ours).T),
        lambda shapes: transform.shape(shapes)[::-1],
    )
