"""Image models in the words and with the tensors of other versions and classes, and what is refused of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_checkpoints import GOLDENS, changed
from safetensors.numpy import load_file

import attention_zoo as az
from helpers import close, run


def agrees(model: Any, name: str, output: str = "last_hidden_state") -> None:
    arrays = np.load(GOLDENS / name / "golden.npz")
    pixels = arrays["square/pixel_values"].transpose(0, 2, 3, 1)
    close(run(model, {"pixel_values": pixels})[output], arrays[f"square/{output}"], atol=1e-4)


def test_of_mae_the_encoder_is_loaded(tmp_path: Path) -> None:
    """The class of the pretraining has a decoder too, and a prefix; what is saved is the class of the encoder."""
    pretraining = {"architectures": ["ViTMAEForPreTraining"], "norm_pix_loss": True}
    decoder = {"decoder.mask_token": np.ones((1, 1, 8), "float32"), "decoder.decoder_embed.bias": np.ones(8, "float32")}

    def rename(name: str) -> str:
        return name if name.startswith("decoder.") else f"vit.{name}"

    model = az.load(changed("vit-mae", tmp_path, pretraining, rename, **decoder))
    agrees(model, "vit-mae")
    az.to_huggingface(model, tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["architectures"] == ["ViTMAEModel"] and saved["mask_ratio"] == 0.75
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(
        load_file(GOLDENS / "vit-mae" / "model.safetensors")
    )


def test_msn_as_transformers_5_saves_it(tmp_path: Path) -> None:
    """Its blocks have lost the prefix that the rest of the body has."""
    folder = changed("vit-msn", tmp_path, rename=lambda name: re.sub(r"^vit\.encoder", "encoder", name))
    agrees(az.load(folder), "vit-msn", "logits")


def test_constants_in_old_files_of_beit(tmp_path: Path) -> None:
    index = {
        "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index": np.ones((10, 10))
    }
    agrees(az.load(changed("beit", tmp_path, **index)), "beit", "logits")


def test_registers_that_the_config_does_not_have(tmp_path: Path) -> None:
    """An entry that is missing means none, as in transformers, which refuses the tensor of three as well."""
    with pytest.raises(ValueError, match="num_register_tokens: got 0; accepted: 3"):
        az.load(changed("dinov3", tmp_path, {"num_register_tokens": 0}))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("beit", {"use_shared_relative_position_bias": True}, "use_shared_relative_position_bias: got true"),
        ("beit", {"use_mean_pooling": "yes"}, "use_mean_pooling: got 'yes'; accepted: true or false"),
        ("beit", {"architectures": ["BeitForSemanticSegmentation"]}, "architectures: got"),
        ("beit", {"layer_scale_init_value": "x"}, "layer_scale_init_value: got 'x'; accepted: a number"),
        ("dinov3", {"value_bias": False}, "value_bias: got False with query_bias True"),
        ("dinov3", {"rope_theta": 0}, "rope_theta: got 0"),
        ("dinov3", {"num_attention_heads": 8}, "head_dim: got 2; accepted: a positive multiple of 4"),
        ("dinov3", {"architectures": ["DINOv3ViTBackbone"]}, "architectures: got"),
        ("ijepa", {"image_size": [12, 16]}, "image_size: got"),
        ("vit", {"id2label": [1]}, "id2label: got"),
    ],
)
def test_what_is_refused(name: str, config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        az.load(changed(name, tmp_path, config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_token": False}, "pooling: got 'class_token' without class_token"),
        ({"class_token": False, "pooling": "mean", "classifier": "class_and_mean"}, "classifier: got 'class_and_mean'"),
        ({"class_token": False, "pooling": "mean", "distillation_token": True}, "distillation_token: got True"),
        ({"position_bias": "shared", "num_registers": 1}, "position_bias: got 'shared'"),
        ({"position": "alibi"}, "position: got 'alibi'"),
        ({"position": "sinusoidal_2d", "hidden_dim": 18, "num_heads": 2}, "hidden_dim: got 18"),
    ],
)
def test_configs_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        az.ViTConfig(**fields)
