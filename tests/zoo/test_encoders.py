"""Checkpoints of encoders in the variants that transformers reads: names, buffers, ties, poolers and positions.

Each is derived from a reference checkpoint of tests/goldens, so that its stored results say what is right.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import attention_zoo as az
from attention_zoo.zoo import registry
from helpers import ROOT, close, numpy, run, tiny

GOLDENS = ROOT / "tests" / "goldens"
Tensors = dict[str, np.ndarray]


def changed(
    name: str, tmp_path: Path, change: Callable[[Tensors], Mapping[str, np.ndarray]], **config: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the model of a reference checkpoint whose tensors and config were changed, and the case "right"."""
    folder = Path(shutil.copytree(GOLDENS / name, tmp_path / name))
    raw = {**json.loads((folder / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "model.safetensors")
    stored = np.load(folder / "golden.npz")
    arrays = {key.removeprefix("right/"): stored[key] for key in stored.files if key.startswith("right/")}
    return az.load(folder), arrays or {key.partition("/")[2]: stored[key] for key in stored.files}


def compared(model: Any, arrays: Mapping[str, np.ndarray], **expected: np.ndarray) -> None:
    """Compare the outputs at tokens that are not padding with those of the case, or with `expected`."""
    names = [spec.name for spec in model.signature.inputs if spec.name in arrays and spec.name != "position_ids"]
    results = run(model, {name: arrays[name] for name in names})
    known = sorted(set(results) & {*arrays, *expected})
    assert known
    for name in known:
        result, wanted = results[name], expected[name] if name in expected else arrays[name]
        mask = arrays["attention_mask"] == 1 if "attention_mask" in arrays else None
        if mask is not None and result.shape[:2] == mask.shape:
            result, wanted = result[mask], wanted[mask]
        close(result, wanted, atol=1e-4, what=name)


def old_names(tensors: Tensors) -> Tensors:
    pairs = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    for new, old in pairs:
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    return tensors


def twice(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        prefix + name if name.startswith(prefix) else name: value for name, value in tensors.items()
    }


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {new if name == old else name: value for name, value in tensors.items()}


def buffers(tensors: Tensors) -> Tensors:
    (inside,) = {name.partition("embeddings.")[0] for name in tensors if "word_embeddings" in name}
    rows = np.arange(40)[None]
    return {**tensors, f"{inside}embeddings.position_ids": rows, f"{inside}embeddings.token_type_ids": rows * 0}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("roberta", old_names),
        ("distilbert", old_names),
        ("ernie", old_names),
        ("bert", twice("bert.")),
        ("roberta", twice("roberta.")),
        ("distilbert", twice("distilbert.")),
        ("bert", renamed("cls.predictions.bias", "cls.predictions.decoder.bias")),
        ("roberta", renamed("lm_head.bias", "lm_head.decoder.bias")),
        ("roberta", buffers),
        ("distilbert", buffers),
        ("distilbert-backbone", buffers),
        ("roberta-backbone", buffers),
    ],
)
def test_names_and_buffers(name: str, change: Callable[[Tensors], Tensors], tmp_path: Path) -> None:
    compared(*changed(name, tmp_path, change))


OUTPUTS = {  # the embedding table, the tied projection and its bias, and the bias that transformers does not use
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder", "cls.predictions.bias"),
    "roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder", "lm_head.bias"),
    "distilbert": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector", "vocab_projector.bias"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_untied_output(name: str, tmp_path: Path, rng: Any) -> None:
    """With the embedding table in another order as the projection, the reference logits are in this order too."""
    table, decoder, bias = OUTPUTS[name]

    def untied(tensors: Tensors) -> Tensors:
        order = rng.permutation(len(tensors[table]))
        orders.append(order)
        theirs = {f"{decoder}.weight": tensors[table][order], f"{decoder}.bias": tensors[bias][order]}
        return {**tensors, bias: tensors[bias], **theirs}

    orders: list[np.ndarray] = []
    model, arrays = changed(name, tmp_path, untied, tie_word_embeddings=False)
    assert model.config.tie_embeddings is False
    compared(model, arrays, logits=arrays["logits"][..., orders[0]])
    again = az.load(az.to_huggingface(model, tmp_path / "again"))
    compared(again, arrays, logits=arrays["logits"][..., orders[0]])
    assert again.config == model.config


def test_sizes_under_other_names(tmp_path: Path) -> None:
    """DistilBERT's sizes may have the names that other models have."""
    raw = json.loads((GOLDENS / "distilbert" / "config.json").read_text())
    names = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
    config = {new: raw[old] for new, old in names.items()} | dict.fromkeys(names.values(), ...)
    compared(*changed("distilbert", tmp_path, dict, **config))


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_pooler(activation: str, tmp_path: Path) -> None:
    """ViT's pooler of another activation and width: its layer is recovered from the stored output, which has tanh."""

    def narrow(tensors: Tensors) -> Tensors:
        return {name: value[:16] if name.startswith("pooler.") else value for name, value in tensors.items()}

    model, arrays = changed("vit-backbone", tmp_path, narrow, pooler_act=activation, pooler_output_size=16)
    before = np.arctanh(arrays["pooler_output"].astype("float64"))[:, :16]
    function = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}.get(activation)
    if function is None:
        from math import erf

        function = np.vectorize(lambda x: x * (1 + erf(x / 2**0.5)) / 2)
    pixels = arrays["pixel_values"].transpose(0, 2, 3, 1)
    close(run(model, {"pixel_values": pixels})["pooler_output"], function(before), atol=1e-3)
    again = az.load(az.to_huggingface(model, tmp_path / "again"))
    assert again.config == model.config and again.config.pooler_dim == 16


def test_tanh_in_the_feed_forward_network(rng: Any) -> None:
    layer = tiny("bert", "backbone", activation="tanh").blocks[0].feedforward
    x = rng.normal(size=(2, 3, 32)).astype("float32")
    up, down = ([numpy(weight).astype("float64") for weight in part.weights] for part in (layer.up, layer.down))
    close(numpy(layer(x)), np.tanh(x @ up[0] + up[1]) @ down[0] + down[1], atol=1e-5)


def test_positions_of_roberta_with_a_hole_in_the_mask() -> None:
    """As in transformers, tokens are counted by their ids: a masked one counts, padding does not."""
    model = tiny("bert", "roberta", head=None, pooler=False)
    ids = np.array([[5, 6, 7, 8, 9, 1, 1], [1, 1, 5, 6, 7, 8, 9]], "int32")  # 1 is the padding token
    mask = np.array([[1, 1, 0, 1, 1, 0, 0], [0, 0, 1, 0, 1, 1, 1]], "int32")
    places = np.array([[0, 1, 2, 3, 4, 0, 0], [0, 0, 0, 1, 2, 3, 4]], "int32")
    given = {"input_ids": ids, "attention_mask": mask}
    found, spelled = (run(model, more)["last_hidden_state"] for more in (given, {**given, "position_ids": places}))
    close(found[mask == 1], spelled[mask == 1], atol=1e-5)


def test_two_families_with_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    bert = registry.family("bert")
    other = type("Other", (bert,), {"dialects": {"roberta": bert.dialects["roberta"]}, "family": "other"})
    monkeypatch.setitem(registry._classes, "other", other)
    with pytest.raises(ValueError, match="dialects: got 'roberta' for other, which bert has; accepted: another"):
        registry.own_dialects("dialects")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "big-bird",
            {"attention_type": "block_sparse"},
            "attention_type: got 'block_sparse'; accepted: 'original_full'",
        ),
        ("big-bird", {"attention_type": ...}, "attention_type: got 'block_sparse'; accepted: 'original_full'"),
        ("big-bird", {"rescale_embeddings": True}, "rescale_embeddings: got True; accepted: False"),
        ("mpnet", {"pad_token_id": 0}, "pad_token_id: got 0; accepted: 1"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets: got 16; accepted: 32"),
        ("nomic-bert", {"prenorm": True}, "prenorm: got True; accepted: False"),
        ("nomic-bert", {"activation_function": "gelu"}, "activation_function: got 'gelu'; accepted: 'swiglu'"),
        ("albert", {"num_hidden_groups": 6}, r"num_hidden_groups \(our num_layer_groups\): got 6; accepted: at most"),
        ("electra-choice", {"summary_type": "mean"}, "summary_type: got 'mean'; accepted: 'first'"),
        ("deberta", {"pos_att_type": ["p2p"]}, r"pos_att_type: got \['p2p'\]; accepted: \['c2p', 'p2c'\]"),
        ("deberta", {"talking_head": True}, "talking_head: got True; accepted: False"),
        ("deberta", {"embedding_size": 8}, "embedding_size: got 8; accepted: hidden_size=16"),
        ("deberta", {"relative_attention": False}, r"pos_att_type: got \['c2p', 'p2c'\] without relative_attention"),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size: got 3; accepted: 0, as convolutions are not built"),
        ("deberta-v2", {"attention_head_size": 4}, "attention_head_size: got 4; accepted: hidden_size / num_attention"),
        ("modernbert", {"classifier_pooling": "max"}, r"classifier_pooling: got 'max'; accepted: \['cls', 'mean'\]"),
        ("modernbert", {"layer_types": ["full_attention"]}, r"layer_types: got \('full_attention',\); accepted: 3 of"),
        (
            "modernbert",
            {"rope_parameters": {"rope_theta": 5.0}},
            "rope_parameters: got .*accepted: an object for each of",
        ),
        (
            "modernbert",
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "for sliding_attention; accepted: the default type",
        ),
    ],
)
def test_what_is_not_built_is_refused(name: str, config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        changed(name, tmp_path, dict, **config)


def test_published_words_of_nomic(tmp_path: Path) -> None:
    """The config of nomic-embed-text is in the words of GPT-2, with those of its own code."""
    raw = json.loads((GOLDENS / "nomic-bert-backbone" / "config.json").read_text())
    words = {
        **{"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"},
        **{"n_inner": "intermediate_size", "n_positions": "max_position_embeddings"},
        **{"layer_norm_epsilon": "layer_norm_eps", "resid_pdrop": "hidden_dropout_prob"},
    }
    published = {word: raw[entry] for word, entry in words.items()}
    published |= dict.fromkeys((*words.values(), "rope_parameters", "hidden_act", "head_dim"), ...)
    published |= {"rotary_emb_base": 500.0, "rotary_emb_fraction": 1.0, "activation_function": "swiglu"}
    published |= {"prenorm": False, "qkv_proj_bias": False, "rotary_scaling_factor": None, "causal": False}
    model, _ = changed("nomic-bert-backbone", tmp_path, dict, **published)
    unscaled = az.load(GOLDENS / "nomic-bert-backbone", rope_scaling=None)
    assert model.config == unscaled.config
    az.to_huggingface(model, tmp_path / "again")
    assert az.load(tmp_path / "again").config == model.config


def test_base_of_local_and_global_positions(tmp_path: Path) -> None:
    """Before transformers 5, ModernBERT's config had an entry for each, and the period of the global layers."""
    raw = json.loads((GOLDENS / "modernbert" / "config.json").read_text())
    thetas = {kind: raw["rope_parameters"][f"{kind}_attention"]["rope_theta"] for kind in ("full", "sliding")}
    earlier = {"rope_parameters": ..., "layer_types": ..., "global_attn_every_n_layers": 3}
    earlier |= {"global_rope_theta": thetas["full"], "local_rope_theta": thetas["sliding"]}
    model, arrays = changed("modernbert", tmp_path, dict, **earlier)
    compared(model, arrays)
    assert model.config.layer_types == ("full_attention", "sliding_attention", "sliding_attention")


@pytest.mark.parametrize("name", ["deberta", "deberta-v2"])
def test_the_later_masked_lm_head_of_deberta(name: str, tmp_path: Path) -> None:
    """With "legacy": false, the head has other names and is always tied."""
    head = {"cls.predictions.transform.": "lm_predictions.lm_head.", "cls.predictions.": "lm_predictions.lm_head."}

    def later(tensors: Tensors) -> Tensors:
        for old, new in head.items():
            tensors = {key.replace(old, new): value for key, value in tensors.items()}
        return tensors

    compared(*changed(name, tmp_path, later, legacy=False))
