"""The presets, as data. Listing them does not import Keras.

A preset describes an architecture without weights; ``az.load`` loads weights. ``parameters`` is the exact parameter
count of the published checkpoint, which a test compares with the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The class of each family by the family's name, which is also the name of its subpackage. The config class is named
# after the class, such as GPTConfig, and lies in the same subpackage.
FAMILIES = {
    "gpt": "GPT",
    "bert": "BERT",
    "vit": "ViT",
    "clip": "CLIP",
    "transformer": "Transformer",
    "seq2seq": "Seq2Seq",
    "whisper": "Whisper",
}


@dataclass(frozen=True)
class Preset:
    family: str
    parameters: int
    source: str
    licence: str
    config: dict[str, Any] = field(default_factory=dict)


def _gpt2(num_layers: int, num_heads: int, hidden_dim: int) -> dict[str, Any]:
    sizes = {"num_layers": num_layers, "num_heads": num_heads, "hidden_dim": hidden_dim}
    return {**sizes, "scale_initial_outputs": True}


def _bert(num_layers: int, num_heads: int, hidden_dim: int) -> dict[str, Any]:
    return {"num_layers": num_layers, "num_heads": num_heads, "hidden_dim": hidden_dim}


def _vit(num_layers: int, num_heads: int, hidden_dim: int) -> dict[str, Any]:
    return {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "head": "image_classification",
        "num_classes": 1000,
    }


_GPT2 = "Radford et al. 2019, openai-community/gpt2"
_BERT = "Devlin et al. 2018, arXiv:1810.04805, google-bert"
_TRANSFORMER = "Vaswani et al. 2017, arXiv:1706.03762, table 3, with their shared vocabulary of 37,000"
_VIT = "Dosovitskiy et al. 2021, arXiv:2010.11929; sizes as in timm"

PRESETS: dict[str, Preset] = {
    "gpt2": Preset("gpt", 124_439_808, _GPT2, "MIT", _gpt2(12, 12, 768)),
    "gpt2-medium": Preset("gpt", 354_823_168, _GPT2, "MIT", _gpt2(24, 16, 1024)),
    "smollm2-135m": Preset(
        "gpt",
        134_515_008,
        "HuggingFaceTB/SmolLM2-135M",
        "Apache-2.0",
        {
            "vocab_size": 49152,
            "num_layers": 30,
            "num_heads": 9,
            "num_kv_heads": 3,
            "hidden_dim": 576,
            "intermediate_dim": 1536,
            "max_length": 8192,
            "position": "rotary",
            "rope_theta": 100_000.0,
            "norm": "rms_norm",
            "activation": "swiglu",
            "use_bias": False,
        },
    ),
    "bert-base": Preset("bert", 109_482_240, _BERT, "Apache-2.0", _bert(12, 12, 768)),
    "bert-large": Preset("bert", 335_141_888, _BERT, "Apache-2.0", _bert(24, 16, 1024)),
    "minilm-l6": Preset("bert", 22_713_216, "sentence-transformers/all-MiniLM-L6-v2", "Apache-2.0", _bert(6, 12, 384)),
    "vit-tiny-16": Preset("vit", 5_717_416, _VIT, "Apache-2.0", _vit(12, 3, 192)),
    "vit-small-16": Preset("vit", 22_050_664, _VIT, "Apache-2.0", _vit(12, 6, 384)),
    "vit-base-16": Preset("vit", 86_567_656, _VIT, "Apache-2.0", _vit(12, 12, 768)),
    "vit-large-16": Preset("vit", 304_326_632, _VIT, "Apache-2.0", _vit(24, 16, 1024)),
    "dinov2-small-14": Preset(
        "vit",
        22_056_576,
        "Oquab et al. 2023, arXiv:2304.07193, facebook/dinov2-small",
        "Apache-2.0",
        {
            "num_layers": 12,
            "num_heads": 6,
            "hidden_dim": 384,
            "image_size": 518,
            "patch_size": 14,
            "norm_epsilon": 1e-6,
            "layer_scale": 1.0,
            "use_mask_token": True,
        },
    ),
    "dinov3-small-16": Preset(
        "vit",
        21_596_544,
        "Siméoni et al. 2025, arXiv:2508.10104, facebook/dinov3-vits16-pretrain-lvd1689m",
        "DINOv3 License",
        {
            "num_layers": 12,
            "num_heads": 6,
            "hidden_dim": 384,
            "position": "rotary_2d",
            "num_registers": 4,
            "use_key_bias": False,
            "norm_epsilon": 1e-5,
            "layer_scale": 1.0,
            "use_mask_token": True,
        },
    ),
    "clip-vit-base-32": Preset(
        "clip", 151_277_313, "Radford et al. 2021, arXiv:2103.00020, openai/clip-vit-base-patch32", "MIT"
    ),
    "siglip-base-16": Preset(
        "clip",
        203_155_970,
        "Zhai et al. 2023, arXiv:2303.15343, google/siglip-base-patch16-224",
        "Apache-2.0",
        {
            "vocab_size": 32000,
            "num_heads": 12,
            "hidden_dim": 768,
            "max_length": 64,
            "activation": "gelu_tanh",
            "norm_epsilon": 1e-6,
            "causal": False,
            "text_pooling": "last",
            "patch_size": 16,
            "image_activation": "gelu_tanh",
            "image_norm_epsilon": 1e-6,
            "image_pooling": "attention",
            "projection": "text",
            "projection_dim": 768,
            "logit_scale": 2.302585092994046,
            "use_logit_bias": True,
        },
    ),
    "transformer-base": Preset("transformer", 63_082_496, _TRANSFORMER, "Apache-2.0"),
    "transformer-big": Preset(
        "transformer",
        214_245_376,
        _TRANSFORMER,
        "Apache-2.0",
        {"num_heads": 16, "hidden_dim": 1024, "dropout": 0.3},
    ),
}
