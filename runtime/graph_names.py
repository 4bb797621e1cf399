"""What the graphs of a file are called: one table for the exporters, the runtime and verification.

file                                   its graphs                   kind       graphs of the model
ONNX, TFLite without a cache           "model", "serving_default"   "plain"    "model"
ONNX with a cache                      "decoder" ["encoder"]        "dynamic"  "decoder" ["encoder"]
TFLite, an encoder-decoder             "encode", "decode"           "static"   "encoder", "decoder"
TFLite in several lengths              the same with "_{n}"; see ``buckets.py``
TFLite, a causal model with a cache    "prefill_{n}" …, "decode"    "litert"   ``export/litert.py``
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .buckets import bucket_of, by_length

SINGLE = "serving_default"  # the only signature of a TFLite file, as TensorFlow calls it
STATIC = {"encode": "encoder", "decode": "decoder"}
PREFILL = "prefill_"
FOREIGN = "keras"  # the family of what is no model of ours


@dataclass(frozen=True)
class Layout:
    """How a file's graphs belong to the model's.

    Attributes:
        kind: of ``model.graphs(kind)``, or "litert".
        main: the graph that a runner's ``run`` runs.
        roles: graph of the file to graph of the model.
    """

    kind: str
    main: str
    roles: Mapping[str, str]

    @property
    def generates(self) -> bool:
        return self.kind != "plain"


def layout_of(names: Collection[str], family: str | None = None) -> Layout:
    """The layout of a file with graphs of these names, of a model of ours or of any other."""
    if family == FOREIGN:
        return Layout("plain", next(iter(names)), dict.fromkeys(names, "model"))
    bases = {name: bucket_of(name)[0] for name in names}
    if {*bases.values()} == set(STATIC):
        return Layout("static", by_length(names, "decode")[-1], {name: STATIC[base] for name, base in bases.items()})
    if {*bases.values()} == {SINGLE}:
        return Layout("plain", by_length(names, SINGLE)[-1], dict.fromkeys(names, "model"))
    if "decode" in names:
        return Layout("litert", "decode", dict.fromkeys(names, "decoder"))
    if "decoder" in names:
        return Layout("dynamic", "decoder", {name: name for name in names})
    only = next(iter(names))
    return Layout("plain", only, {only: "model"})


def prefill_name(length: int) -> str:
    return f"{PREFILL}{length}"


def is_prefill(name: str) -> bool:
    return name.startswith(PREFILL)
