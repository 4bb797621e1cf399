"""``create``: models with random weights, by the name of a preset or a family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, overload

from .registry import family, family_names, preset

if TYPE_CHECKING:
    from . import typed
    from .base import ZooModel
    from .bert import BERT
    from .clip import CLIP
    from .gpt import GPT
    from .seq2seq import Seq2Seq
    from .transformer import Transformer
    from .vit import ViT
    from .whisper import Whisper


# For type checkers: ``create`` of a family or preset takes that family's fields and returns its class.
@overload
def create(name: typed.GPTName, *, dtype: Any = None, **overrides: Unpack[typed.GPTFields]) -> GPT: ...
@overload
def create(name: typed.BERTName, *, dtype: Any = None, **overrides: Unpack[typed.BERTFields]) -> BERT: ...
@overload
def create(name: typed.ViTName, *, dtype: Any = None, **overrides: Unpack[typed.ViTFields]) -> ViT: ...
@overload
def create(name: typed.CLIPName, *, dtype: Any = None, **overrides: Unpack[typed.CLIPFields]) -> CLIP: ...
@overload
def create(
    name: typed.TransformerName, *, dtype: Any = None, **overrides: Unpack[typed.TransformerFields]
) -> Transformer: ...
@overload
def create(name: typed.Seq2SeqName, *, dtype: Any = None, **overrides: Unpack[typed.Seq2SeqFields]) -> Seq2Seq: ...
@overload
def create(name: typed.WhisperName, *, dtype: Any = None, **overrides: Unpack[typed.WhisperFields]) -> Whisper: ...
@overload
def create(name: str, *, dtype: Any = None, **overrides: Unpack[typed.AnyFields]) -> ZooModel: ...
# For ``**mapping``, which alone can provide the required `_mapping`. Its fields are not checked.
@overload
def create(name: str, *, dtype: Any = None, _mapping: Any, **overrides: Any) -> ZooModel: ...
def create(name: str, *, dtype: Any = None, **overrides: Any) -> ZooModel:
    """Create a model with randomly initialized weights from a preset or a family's default config.

    Args:
        name: the name of a preset (see ``list_models()``), or of a family, such as "gpt", "bert", "vit", "clip",
            "transformer", "seq2seq" or "whisper", for the default config of that family.
        dtype: a Keras dtype policy, such as "mixed_bfloat16". Default: Keras' global dtype policy.
        overrides: config fields that replace those of the preset, such as ``num_layers=4`` or ``head="masked_lm"``.
            Type checkers know the fields of this package's families; pass fields of other families as ``**mapping``.

    Returns:
        A built model of the family's class, such as ``GPT``.

    Raises:
        ValueError: `name` is unknown, the config has no such field, or it does not accept a value.
    """
    if name in family_names():
        chosen, config = name, {}
    else:
        chosen, config = preset(name).family, preset(name).config
    cls = family(chosen)
    return cls(cls.config_class.from_dict({**config, **overrides}), dtype=dtype)
