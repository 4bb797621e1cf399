"""The ONNX form of every primitive, by the first opset that has it. A new opset is an entry in ``FORMS``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from ...onnx_versions import FIRST
from . import attention, basic, experts, recurrent

Form = Callable[..., Any]

# For each primitive, its forms by the first opset in which they are possible. Where a later form has a name, it is the
# operator that computes the primitive alone, and the form before it is composed of several operators.
FORMS: Mapping[str, Mapping[int, tuple[str, Form]]] = {
    "dense": {FIRST: ("", basic.dense)},
    "embedding_lookup": {FIRST: ("", basic.embedding_lookup)},
    "layer_norm": {FIRST: ("LayerNormalization", basic.layer_norm)},
    "rms_norm": {FIRST: ("", basic.composed_rms_norm), 23: ("RMSNormalization", basic.rms_norm)},
    "gelu": {FIRST: ("", basic.composed_gelu), 20: ("Gelu", basic.gelu)},
    "split_heads": {FIRST: ("", attention.split_heads)},
    "merge_heads": {FIRST: ("", attention.merge_heads)},
    "dot_product_attention": {FIRST: ("", attention.composed_attention), 23: ("Attention", attention.attention)},
    "rotary": {FIRST: ("", basic.composed_rotary), 23: ("RotaryEmbedding", basic.rotary)},
    "reshape_behind": {FIRST: ("", basic.reshape_behind)},
    "batch_norm": {FIRST: ("BatchNormalization", basic.batch_norm)},
    "image_mean": {FIRST: ("GlobalAveragePool", basic.image_mean)},
    "recurrent": {FIRST: ("LSTM", recurrent.recurrent)},
    "group_by_expert": {FIRST: ("", experts.group_by_expert)},
    "grouped_dense": {FIRST: ("", experts.grouped_dense)},
    "unrolled": {FIRST: ("", lambda: None)},
}


def lowerings(opset: int, avoid: Collection[str] = (), *, half: bool = False) -> tuple[dict[str, Form], set[str]]:
    """Return the lowering of every primitive for an opset, and the names of those that become one operator.

    Args:
        opset: the opset, 17 or later.
        avoid: operators that the target does not have, for which the composed form is written.
        half: whether the target computes in float16, where a masked score must be finite too.
    """
    chosen, single = {}, set()
    for name, forms in FORMS.items():
        operator, chosen[name] = max(
            ((first, form) for first, form in forms.items() if first <= opset and form[0] not in avoid),
            key=lambda entry: entry[0],
        )[1]
        single |= {name} if operator else set()
    if half:
        chosen["dot_product_attention"] = partial(chosen["dot_product_attention"], hidden=attention.HIDDEN_IN_HALF)
        chosen["recurrent"] = partial(chosen["recurrent"], held=recurrent.MOST_IN_HALF)
    return chosen, single
