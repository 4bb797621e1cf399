"""Adapters of PEFT: low-rank updates (LoRA) in a folder of their own, merged into the tensors of their base model.

A folder of PEFT has adapter_config.json, which names the base model, and adapter_model.safetensors: for each adapted
layer the matrices A (rank, in) and B (out, rank), and whole tensors for the layers of `modules_to_save`. The merged
weight is ``W + scale · B A``, computed in float32, as ``merge_and_unload`` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from ..files import read_json
from ..weights.rules import Dialect
from ..weights.tensors import SHOWN, SafetensorsFiles, Shape, Tensors
from .hub import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .huggingface import flag, integer, number

PREFIX = "base_model.model."
PART = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.default)?(\.weight)?")
# Entries that do not change what the saved tensors mean.
HARMLESS = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
    *("use_rslora", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("megatron_core", "loftq_config", "eva_config", "qalora_group_size", "ensure_weight_tying"),
}
DEMANDED = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}  # initializations that do not change the base weights
HEADS = {
    "CAUSAL_LM": "causal_lm",
    "SEQ_CLS": "sequence_classification",
    "TOKEN_CLS": "token_classification",
    "QUESTION_ANS": "question_answering",
}
HEADLESS = (None, "sentence_embedding", "sequence_classification", "token_classification", "question_answering")
TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight")
# Names of modules in transformers since version 5, and those of their tensors in files, which are the earlier ones.
_VIT = r"(.*?)(?:encoder\.layer|layers)\.(\d+)\."
RENAMED = (
    *(
        (re.compile(_VIT + rf"attention\.{new}"), rf"\1encoder.layer.\2.attention.{old}")
        for new, old in (
            *((f"{name[0]}_proj", f"attention.{name}") for name in ("query", "key", "value")),
            ("o_proj", "output.dense"),
        )
    ),
    *(
        (re.compile(_VIT + rf"mlp\.{new}"), rf"\1encoder.layer.\2.{old}")
        for new, old in (("fc1", "intermediate.dense"), ("fc2", "output.dense"))
    ),
    (re.compile(r"(.*\.)?model\.layer\.(.*)"), r"\1layer.\2"),
    (re.compile(r"lm_head"), "embed_out"),
)
# Patterns of module names; arbitrary regular expressions could take exponential time.
PATTERN = re.compile(r"(?:[\w-]|\\?\.|\\d\+|\.\*|\^|\$){1,200}")


def is_adapter(folder: Path) -> bool:
    """Return whether `folder` has an adapter of PEFT, and no weights of a whole model."""
    whole = any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))
    return (folder / ADAPTER_CONFIG).is_file() and (not whole or (folder / ADAPTER_WEIGHTS).is_file())


class Adapter:
    """The adapter in a folder of PEFT.

    Attributes:
        folder: the folder.
        base: the name or path of its base model that it states, or None.
        revision: the revision of the base model, or None.
        raw: the content of adapter_config.json.
        where: the path of the file of weights.

    Raises:
        ValueError: a file is missing or damaged, or an entry of the config has a value that is not supported.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config_file = folder, folder / ADAPTER_CONFIG
        self.raw = raw = read_json(self.config_file)
        self._check()
        self.base, self.revision = raw.get("base_model_name_or_path") or None, raw.get("revision") or None
        if not all(isinstance(value, str | None) for value in (self.base, self.revision)):
            raise self._refused("base_model_name_or_path", self.base, "a name, a path or null")
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise ValueError(f"path: got {folder} without {ADAPTER_WEIGHTS}; accepted: one; pickles are never opened")
        self.tensors = SafetensorsFiles(folder, ADAPTER_WEIGHTS)
        self.where = self.tensors.where
        self.parts: dict[str, dict[str, str]] = {}  # name of the layer -> "A", "B" -> name of the tensor
        self.embeddings: set[str] = set()
        self.whole: dict[str, str] = {}  # name in the base model -> name of the tensor
        for name in self.tensors.shapes:
            short = name.removeprefix(PREFIX)
            if found := PART.fullmatch(short):
                self.parts.setdefault(found[1], {})[found[3]] = name
                self.embeddings |= {found[1]} if found[2] else set()
            elif ".original_module." not in short:
                self.whole[re.sub(r"\.modules_to_save(\.default)?\.|\.base_layer\.", ".", short)] = name
        if bad := [name for name in (*self.whole, *self.parts) if "lora_" in name]:
            raise ValueError(f"path: {self.where} has {bad[:SHOWN]}; accepted: lora_A and lora_B of dense layers")
        if not self.parts and not self.whole:
            raise ValueError(f"path: {self.where} has no tensors; accepted: an adapter as PEFT saves it")

    def _refused(self, name: str, got: Any, accepted: str) -> ValueError:
        return ValueError(f"path: {self.config_file}: {name}: got {got!r:.80}; accepted: {accepted}")

    def _check(self) -> None:
        if (kind := self.raw.get("peft_type")) != "LORA":
            raise self._refused("peft_type", kind, "'LORA'")
        for name, accepted in DEMANDED.items():
            if (value := self.raw.get(name, accepted[0])) not in accepted:
                raise self._refused(name, value, f"one of {list(accepted)}")
        if self.raw.get("loftq_config") and self.raw.get("init_lora_weights") == "loftq":
            raise self._refused("loftq_config", self.raw["loftq_config"], "{}")
        for name in sorted(set(self.raw) - HARMLESS - set(DEMANDED)):
            if self.raw[name] not in (None, False, [], {}):
                raise self._refused(name, self.raw[name], "null or false, for plain LoRA")
        where = f"path: {self.config_file}: "
        for name in ("rank_pattern", "alpha_pattern"):
            pattern = self.raw.get(name) or {}
            if not isinstance(pattern, Mapping) or not all(PATTERN.fullmatch(key) for key in pattern):
                raise self._refused(name, pattern, "an object of numbers by names of modules")
        try:
            self.rank, self.alpha = integer(self.raw, "r", 8), number(self.raw, "lora_alpha", 8)
            self.rooted, self.flipped = flag(self.raw, "use_rslora", False), flag(self.raw, "fan_in_fan_out", False)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error

    @property
    def head(self) -> str | None:
        """The head that the adapter was trained with, "" for none, or None if the config does not name it."""
        task = self.raw.get("task_type")
        return "" if task == "FEATURE_EXTRACTION" else HEADS.get(str(task))

    def classes(self, dialect: Dialect) -> int | None:
        """Return the number of classes of the classifier among the whole tensors, or None if there is none."""
        last = re.compile(r"(score|classifier|classifier\.out_proj|qa_outputs)\.weight")
        rows = [
            self.tensors.shapes[own][0] for name, own in self.whole.items() if last.fullmatch(dialect.normalise(name))
        ]
        return rows[0] if rows else None

    def scale(self, layer: str) -> tuple[int, float]:
        """Return the rank of a layer's adapter, and the number that its product is multiplied by."""
        values = []
        for name, default in (("rank_pattern", self.rank), ("alpha_pattern", self.alpha)):
            patterns = self.raw.get(name) or {}
            key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", layer)), layer)
            value = patterns.get(key, default)
            if not checks.is_number(value) or (name == "rank_pattern" and (not checks.is_integer(value) or value < 1)):
                raise self._refused(name, value, "positive numbers")
            values.append(value)
        rank, alpha = values
        return rank, alpha / (math.sqrt(rank) if self.rooted else rank)


class MergedTensors:
    """The tensors of a base model with an adapter merged into them, with the interface of ``Tensors``.

    Args:
        base: the tensors of the base model.
        adapter: the adapter.
        dialect: the names of both, whose prefix one of them may lack.
        head: the head that the model will have.

    Raises:
        ValueError: the adapter has a layer that the base model does not have, a part of another shape, an adapter of
            the embedding table to which the output projection is tied, or other rows of it.
    """

    def __init__(self, base: Tensors, adapter: Adapter, dialect: Dialect, head: str | None) -> None:
        self.base, self.adapter, self.where = base, adapter, f"{base.where} with {adapter.where}"
        names = {dialect.normalise(name): name for name in base.shapes}
        self.shapes: dict[str, Shape] = dict(base.shapes)
        self.updates: dict[str, str] = {}  # name of the tensor -> layer
        self.whole: dict[str, str] = {}
        for name, own in adapter.whole.items():
            theirs = names.get(dialect.normalise(name), name)
            self.whole[theirs], self.shapes[theirs] = own, adapter.tensors.shapes[own]
            names.setdefault(dialect.normalise(name), theirs)
        copies = {copy: table for copy, table in dialect.tied.items() if copy == dialect.output and copy not in names}
        copies = {} if head in HEADLESS else copies
        tied = set(copies.values())
        self.copied: dict[str, str] = {}  # the output projection -> the table of the base model, of which it is a copy
        for copy, table in copies.items():
            if names.get(table) in self.whole and not adapter.raw.get("ensure_weight_tying"):
                self._untie(copy, names[table])
        for layer, parts in adapter.parts.items():
            short = dialect.normalise(f"{layer}.weight")
            renamed = (pattern.fullmatch(layer) and pattern.sub(old, layer) for pattern, old in RENAMED)
            known = (dialect.normalise(f"{name}.weight") for name in renamed if name)
            short = short if short in names else next((name for name in known if name in names), short)
            if short not in names:
                raise ValueError(f"path: {adapter.where} adapts {layer}, which {base.where} lacks; accepted: its base")
            if short in tied:
                accepted = "accepted: an adapter of other layers"
                raise ValueError(f"path: {adapter.where} adapts {layer}, which the output shares; {accepted}")
            if sorted(parts) != ["A", "B"]:
                raise ValueError(
                    f"path: {adapter.where} has only {sorted(parts)} of {layer}; accepted: lora_A and lora_B"
                )
            self.updates[names[short]] = layer
            self._check_shapes(layer, parts, self.shapes[names[short]])

    def _untie(self, copy: str, table: str) -> None:
        """Give the model a separate output projection, because PEFT trains a copy of the tied table."""
        if self.shapes[table] != self.base.shapes[table]:
            got = f"got {self.adapter.where} with {self.shapes[table][0]} rows of {table}, which the output shares"
            raise ValueError(f"path: {got}; accepted: {self.base.shapes[table][0]}, or an adapter with an output too")
        self.copied[copy], self.shapes[copy] = table, self.base.shapes[table]

    def _check_shapes(self, layer: str, parts: Mapping[str, str], shape: Shape) -> None:
        one, other = (self.adapter.tensors.shapes[parts[part]] for part in "AB")
        rank, _ = self.adapter.scale(layer)
        product = (*other[:1], *one[1:])
        if (
            len(one) != 2
            or len(other) != 2
            or one[0] != rank
            or other[1] != rank
            or shape not in (product, product[::-1])
        ):
            accepted = f"accepted: those of {shape} with rank {rank}"
            raise ValueError(f"path: {self.adapter.where} has {layer} of shapes {one} and {other}; {accepted}")

    def rows(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the config `raw` of the base model with the rows of the embedding table that the adapter brings."""
        tables = [name for name in self.whole if name.endswith(TABLES) and name in self.base.shapes]
        rows = {self.shapes[name][0] for name in tables if self.shapes[name] != self.base.shapes[name]}
        return {**raw, "vocab_size": rows.pop()} if len(rows) == 1 else raw

    def read(self, name: str) -> np.ndarray:
        if name in self.copied:
            return self.base.read(self.copied[name])
        own = self.whole.get(name)
        array = self.base.read(name) if own is None else self.adapter.tensors.read(own)
        if (layer := self.updates.get(name)) is None:
            return array
        down, up = (self.adapter.tensors.read(self.adapter.parts[layer][part]).astype("float32") for part in "AB")
        update = up @ down * np.float32(self.adapter.scale(layer)[1])  # (out, in), or (features, rows) of a table
        square = update.shape[0] == update.shape[1]
        turned = layer in self.adapter.embeddings or (self.adapter.flipped if square else update.shape != array.shape)
        return array.astype("float32") + (update.T if turned else update)
