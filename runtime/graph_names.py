"""Names of the graphs in an exported file, shared by the exporters, the runners and the verification.

file                                   its graphs                   kind       graphs of the model
ONNX, TFLite without a cache           "model", "serving_default"   "plain"    "model"
ONNX with a cache                      "decoder" ["encoder"]        "dynamic"  "decoder" ["encoder"]
TFLite, an encoder-decoder             "encode", "decode"           "static"   "encoder", "decoder"
TFLite in several lengths              the same with "_{n}"; see ``buckets.py``
TFLite, a causal model with a cache    "prefill_{n}" …, "decode"    "litert"   see ``export/frontend/graphs.py``
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .buckets import bucket_of, by_length

SINGLE = "serving_default"  # TensorFlow's name for the signature of a TFLite file that has only one
STATIC = {"encode": "encoder", "decode": "decoder"}
PREFILL = "prefill_"
FOREIGN = "keras"  # the family of a Keras model that is not of this package


@dataclass(frozen=True)
class Layout:
    """The mapping from the graphs of a file to the graphs of the model.

    Attributes:
        kind: The argument of ``model.graphs(kind)``, or "litert".
        main: The name of the graph that ``Runner.run`` runs.
        roles: The name of the model's graph by the name of the file's graph.
    """

    kind: str
    main: str
    roles: Mapping[str, str]

    @property
    def generates(self) -> bool:
        return self.kind != "plain"


def layout_of(names: Collection[str], family: str | None = None) -> Layout:
    """Return the layout of a file with graphs of these names, of a model of this package or of a third-party model."""
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
