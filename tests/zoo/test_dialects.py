"""Decoders and encoder-decoders in the words and with the tensors of other versions and tools.

The expected numbers are those that transformers stored in tests/goldens, changed as the definition of an option says.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (makes bfloat16 a dtype that NumPy knows)
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import attention_zoo as az
from attention_zoo.layers.rotary import rotary_frequencies
from attention_zoo.zoo.gpt.gguf import read_gguf
from attention_zoo.zoo.huggingface_layers import read_rope
from helpers import ROOT, close, numpy, run, tiny

GOLDENS = ROOT / "tests" / "goldens"
DROP: Any = object()


def changed(
    name: str, folder: Path, config: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None
) -> Path:
    """Return a copy of a stored checkpoint with other config entries and tensors; DROP removes one."""
    copy = Path(shutil.copytree(GOLDENS / name, folder / name))
    raw = {**json.loads((copy / "config.json").read_text()), **(config or {})}
    (copy / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not DROP}))
    if tensors:
        found = {**load_file(copy / "model.safetensors"), **tensors}
        save_file({key: value for key, value in found.items() if value is not DROP}, copy / "model.safetensors")
    return copy


def stored(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the inputs and the logits of a stored checkpoint, and where the logits are not those of padding."""
    arrays = {
        key.partition("/")[2]: value for key, value in np.load(GOLDENS / name / "golden.npz").items() if "right/" in key
    }
    logits = arrays.pop("logits")
    arrays.pop("position_ids", None)
    mask = arrays.get("decoder_attention_mask", arrays["attention_mask"])
    return arrays, logits.astype("float64"), mask == 1


def agrees(model: Any, name: str, factor: float = 1.0, difference: Any = 0.0) -> None:
    inputs, logits, kept = stored(name)
    close(run(model, inputs)["logits"][kept], (logits * factor - difference)[kept], atol=1e-4)


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def tensor(name: str, key: str) -> np.ndarray:
    return load_file(GOLDENS / name / "model.safetensors")[key]


# T5


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": True, "scale_decoder_outputs": False},  # as transformers 5 saves it
        {"tie_word_embeddings": False, "scale_decoder_outputs": DROP},  # as on the hub
        {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "tie_word_embeddings": True},
        {"model_type": "mt5", "architectures": None, "feed_forward_proj": DROP, "tie_word_embeddings": DROP},
        {"feed_forward_proj": "relu", "dense_act_fn": "gelu_new", "is_gated_act": True},  # the latter two win
    ],
)
def test_t5_of_every_version(config: dict[str, Any], tmp_path: Path) -> None:
    with no_warning():
        model = az.load(changed("t5", tmp_path, config))
    agrees(model, "t5")
    az.to_huggingface(model, tmp_path / "again")
    agrees(az.load(tmp_path / "again"), "t5")


@pytest.mark.parametrize("config", [{"tie_word_embeddings": DROP}, {"scale_decoder_outputs": True}])
def test_t5_that_scales_its_outputs(config: dict[str, Any], tmp_path: Path) -> None:
    """The output projection has no bias, so that the logits have the factor of the hidden states."""
    model = az.load(changed("t5", tmp_path, config))
    agrees(model, "t5", model.config.hidden_dim**-0.5)
    az.to_huggingface(model, tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["scale_decoder_outputs"] is True and az.load(tmp_path / "again").config == model.config


def test_t5_without_an_output_projection(tmp_path: Path) -> None:
    """It is tied to the embedding table, whatever the config says, as in transformers 5."""
    shared = tensor("t5", "shared.weight")
    untied = az.load(changed("t5", tmp_path / "untied", tensors={"lm_head.weight": shared * 2}))
    tied = az.load(changed("t5", tmp_path / "tied", tensors={"lm_head.weight": DROP}))
    equal = az.load(changed("t5", tmp_path / "equal", {"tie_word_embeddings": True}, {"lm_head.weight": shared}))
    assert tied.config.tie_embeddings and not untied.config.tie_embeddings and equal.config.tie_embeddings
    inputs, _, kept = stored("t5")
    doubled, logits = (run(model, inputs)["logits"][kept] for model in (untied, tied))
    close(logits, doubled / 2, atol=1e-4)


def test_cross_attention_bias_of_old_t5_is_ignored(tmp_path: Path) -> None:
    bias = np.ones_like(tensor("t5", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"))
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    agrees(az.load(changed("t5", tmp_path, tensors={name: bias})), "t5")


def test_marian_without_a_bias_of_its_logits(tmp_path: Path) -> None:
    bias = tensor("marian", "final_logits_bias").astype("float64")
    assert np.std(bias) > 1e-3
    agrees(az.load(changed("marian", tmp_path, tensors={"final_logits_bias": DROP})), "marian", difference=bias)


# Llama


@pytest.mark.parametrize(
    "config",
    [
        {"pretraining_tp": 2},  # a way to compute the same
        {"partial_rotary_factor": 0.5},  # without a scaling, Llama does not read it
        {"rope_scaling": {"type": "default", "factor": 3.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    ],
)
def test_entries_without_effect(config: dict[str, Any], tmp_path: Path) -> None:
    theta = json.loads((GOLDENS / "llama" / "config.json").read_text())["rope_parameters"]["rope_theta"]
    agrees(az.load(changed("llama", tmp_path, {**config, "rope_theta": theta})), "llama")


def test_rope_scaling_wins_over_rope_parameters(tmp_path: Path) -> None:
    given = json.loads((GOLDENS / "llama-linear" / "config.json").read_text())["rope_parameters"]
    other = {"rope_type": "linear", "factor": given["factor"] * 3, "rope_theta": 7.0}
    scaling = {"type": "linear", "factor": given["factor"]}
    both = {"rope_scaling": scaling, "rope_parameters": other, "rope_theta": given["rope_theta"]}
    agrees(az.load(changed("llama-linear", tmp_path, both)), "llama-linear")


def test_dynamic_scaling_is_for_short_sequences(tmp_path: Path) -> None:
    folder = changed("llama", tmp_path, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})
    model = az.load(folder)
    longest = model.config.max_length
    with pytest.raises(ValueError, match=f"got {longest + 1} with dynamic scaling .* accepted: at most {longest}"):
        az.load(folder, max_length=longest + 1)
    az.to_huggingface(model, tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["rope_scaling"] == {"rope_type": "dynamic", "factor": 2.0}
    with pytest.raises(ValueError, match="model: got a config that transformers cannot hold"):  # it would scale earlier
        az.to_huggingface(az.load(folder, max_length=longest - 1), tmp_path / "shorter")


def test_head_of_its_own_in_a_tied_config(tmp_path: Path) -> None:
    folder = changed("llama", tmp_path, {"tie_word_embeddings": True})
    with pytest.warns(UserWarning, match=r"tie_word_embeddings is true, but lm_head\.weight differs") as told:
        model = az.load(folder)
    assert told[0].filename == __file__
    agrees(model, "llama")


def test_tensors_of_further_layers(tmp_path: Path) -> None:
    """They are left out with a warning, as by transformers, which also allows to load the first layers alone."""
    name = "model.layers.{}.self_attn.q_proj.weight"
    folder = changed("llama", tmp_path, tensors={name.format(7): np.ones((2, 2), "float32")})
    with pytest.warns(UserWarning, match=r"1 tensors are not used, .*: model\.layers\.7\.self_attn\.q_proj") as told:
        agrees(az.load(folder), "llama")
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=r"model\.layers\.1\."):
        assert len(az.load(folder, num_layers=1).blocks) == 1


def test_body_of_a_file_with_a_head(tmp_path: Path) -> None:
    folder = changed("llama", tmp_path, {"architectures": ["LlamaModel"]})
    with pytest.warns(UserWarning, match=r"not used, .* no head: lm_head\.weight"):
        body = az.load(folder)
    inputs, logits, kept = stored("llama")
    states = run(body, inputs)["last_hidden_state"].astype("float64")
    close((states @ tensor("llama", "lm_head.weight").T.astype("float64"))[kept], logits[kept], atol=1e-4)


@pytest.mark.parametrize(
    ("prefix", "suffix", "why"),
    [
        ("_orig_mod.", "", "begin with '_orig_mod.', which torch.compile adds"),
        ("module.", "", "begin with 'module.', which DistributedDataParallel adds"),
        ("base_model.model.", "", "begin with 'base_model.model.', which PEFT adds"),
        ("", ".lora_A.default.weight", "got LoRA adapters, such as .*; accepted: merged weights"),
    ],
)
def test_names_of_wrappers(prefix: str, suffix: str, why: str, tmp_path: Path) -> None:
    folder = changed("llama", tmp_path)
    found = load_file(folder / "model.safetensors")
    save_file({prefix + name + suffix: value for name, value in found.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"model.safetensors: .*{why}"):
        az.load(folder)


@pytest.mark.parametrize(("given", "written"), [(None, "bfloat16"), ("float32", "float32"), ("float16", "float16")])
def test_dtype_in_the_config_is_that_of_the_tensors(given: str | None, written: str, tmp_path: Path) -> None:
    """transformers 5 reads `dtype`, earlier versions `torch_dtype`, and both round the tensors to it."""
    model = az.load(GOLDENS / "llama-bf16")
    az.to_huggingface(model, tmp_path, dtype=given)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {saved["dtype"], saved["torch_dtype"]} == {written}
    assert {str(value.dtype) for value in load_file(tmp_path / "model.safetensors").values()} == {written}


# Options


def test_scores_divided_by_the_number_of_the_block(tmp_path: Path) -> None:
    """Equal to a model whose queries are divided."""
    entries = {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}
    model = az.load(changed("gpt2", tmp_path, entries))
    assert model.config.attention_scale == 1.0 and model.config.scale_by_layer
    equal = az.load(GOLDENS / "gpt2")
    for number, block in enumerate(equal.blocks):
        for weight in block.attention.query_dense.weights:
            weight.assign(weight * (model.config.head_dim**0.5 / (number + 1)))
    inputs, logits, kept = stored("gpt2")
    found = run(model, inputs)["logits"]
    close(found[kept], run(equal, inputs)["logits"][kept], atol=1e-4)
    assert np.abs(found - logits)[kept].max() > 1e-2
    az.to_huggingface(model, tmp_path / "again")
    assert az.load(tmp_path / "again").config == model.config


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("entries", "sharper"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"mscale": 0.5}, 0.1 * math.log(4) + 1),  # has an effect beside `mscale_all_dim` only
        ({"mscale": 0.5, "mscale_all_dim": 0.8}, (0.05 * math.log(4) + 1) / (0.08 * math.log(4) + 1)),
        ({"mscale": 0.5, "mscale_all_dim": 0.8, "attention_factor": 1.5}, 1.5),
        ({"factor": 0.5, "mscale": 0.5, "mscale_all_dim": 0.8}, 1.0),
        ({"factor": None}, 0.1 * math.log(4) + 1),  # max_position_embeddings / 16
        ({"beta_fast": None, "finetuned": True, "low_freq_factor": 3.0}, 0.1 * math.log(4) + 1),
    ],
)
def test_yarn_entries(entries: dict[str, Any], sharper: float) -> None:
    read = read_rope({"rope_scaling": {**YARN, **entries}, "max_position_embeddings": 64})
    assert rotary_frequencies(8, read["rope_theta"], read["rope_scaling"])[1] == pytest.approx(sharper)


def test_lengths_that_yarn_extends() -> None:
    short = {"rope_scaling": YARN, "max_position_embeddings": 16}
    assert read_rope(short)["max_length"] == 64
    assert read_rope({**short, "max_position_embeddings": 100})["max_length"] == 100
    outside = read_rope({**short, "original_max_position_embeddings": 8})["rope_scaling"]  # transformers 5 prefers it
    assert outside["original_max_position_embeddings"] == 8
    assert "max_length" not in read_rope({"rope_scaling": {"type": "yarn", "factor": 2.0}})


# Classes of texts and tokens


def test_new_head_for_a_file_with_an_output_projection() -> None:
    """The file's output projection differs from its embedding table. Models with other heads do not need it."""
    inputs, logits, kept = stored("llama")
    last = logits[np.arange(len(logits)), kept.sum(1) - 1]
    embeds = az.load(GOLDENS / "llama", head="sentence_embedding", pooling="last")
    embedding = run(embeds, inputs)["sentence_embedding"].astype("float64")
    close(embedding @ tensor("llama", "lm_head.weight").T.astype("float64"), last, atol=1e-4)
    with pytest.warns(UserWarning, match="has no such head: classifier/kernel keep their initial values"):
        model = az.load(GOLDENS / "llama", head="sequence_classification", num_classes=4, pad_token_id=None)
    close(run(model, inputs)["logits"], embedding @ numpy(model.classifier.kernel).astype("float64"), atol=1e-5)
    with pytest.raises(ValueError, match=r"the values of lm_head\.weight and model\.embed_tokens\.weight differ"):
        az.load(GOLDENS / "llama", head="causal_lm", tie_embeddings=True)


def test_class_of_the_last_token(tmp_path: Path) -> None:
    """It is found by its id or by the mask alone; with padding on the right, no token attends to the padding."""
    inputs, logits, _ = stored("llama-sequence")
    by_id = az.load(GOLDENS / "llama-sequence")
    close(run(by_id, {"input_ids": inputs["input_ids"]})["logits"], logits, atol=1e-4)
    by_mask = az.load(GOLDENS / "llama-sequence", pad_token_id=None)
    other = {**inputs, "input_ids": np.where(inputs["attention_mask"] == 1, inputs["input_ids"], 5)}
    for model in (by_id, by_mask):
        close(run(model, other)["logits"], logits, atol=1e-4)
    padding = run(by_id, {"input_ids": np.zeros((1, 3), "int32")})["logits"]  # the first token, if all are padding
    close(padding, run(by_mask, {"input_ids": np.zeros((1, 1), "int32")})["logits"], atol=1e-5)


def test_cross_encoder_of_a_decoder(tmp_path: Path) -> None:
    function = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    model = az.load(changed("llama-sequence", tmp_path, {"sentence_transformers": function}))
    az.to_huggingface(model, tmp_path / "again")
    inputs, logits, _ = stored("llama-sequence")
    for one in (model, az.load(tmp_path / "again")):
        close(run(one, inputs)["scores"], 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize(
    ("head", "cls", "names"),
    [
        ("sequence_classification", "GPT2ForSequenceClassification", {"score.weight"}),
        ("token_classification", "GPT2ForTokenClassification", {"classifier.weight", "classifier.bias"}),
    ],
)
def test_classifiers_of_gpt2(head: str, cls: str, names: set[str], tmp_path: Path) -> None:
    model = tiny("gpt", "gpt2", head=head, num_classes=4)
    az.to_huggingface(model, tmp_path)
    saved, found = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    assert saved["architectures"] == [cls] and len(saved["id2label"]) == 4
    assert {name for name in found if not name.startswith("transformer.")} == names
    ids = np.arange(10).reshape(2, 5)
    close(run(az.load(tmp_path), {"input_ids": ids})["logits"], run(model, {"input_ids": ids})["logits"], atol=1e-6)


# GGUF


def frequencies(fields: Mapping[str, Any], factors: Any = None) -> tuple[np.ndarray, float]:
    """Return the frequencies and the factor on cosines and sines for these metadata, with heads of 8 features."""
    raw = {"general.architecture": "llama", "llama.attention.head_count": 2, "llama.embedding_length": 16}
    raw |= {"llama.context_length": 64, **{f"llama.rope.{name}": value for name, value in fields.items()}}
    read = read_gguf({**raw, **({} if factors is None else {"rope_freqs": factors})}, {"token_embd.weight": (9, 16)})
    return rotary_frequencies(8, 10_000.0, read["rope_scaling"])


PLAIN = 10_000.0 ** (-np.arange(0, 8, 2) / 8)


@pytest.mark.parametrize(
    ("fields", "divisor", "sharper"),
    [
        ({}, 1, 1),
        ({"scaling.factor": 4.0}, 4, 1),
        ({"scale_linear": 4.0}, 4, 1),
        ({"scale_linear": 4.0, "scaling.factor": 2.0}, 2, 1),
        ({"scaling.type": "none", "scaling.factor": 4.0}, 1, 1),
        ({"scaling.type": "linear"}, 1, 1),
        ({"scaling.type": "linear", "scaling.factor": 0.0}, 1, 1),
        ({"scaling.attn_factor": 0.5}, 1, 0.5),
        ({"scaling.type": "none", "scaling.attn_factor": 0.5}, 1, 0.5),
        ({"scaling.factor": 4.0, "scaling.attn_factor": 0.5}, 4, 0.5),
    ],
)
def test_gguf_scaling(fields: dict[str, Any], divisor: float, sharper: float) -> None:
    """The expected values are those of llama.cpp's ``rope_yarn`` for a file's `freq_scale` and `attn_factor`."""
    found, factor = frequencies(fields)
    close(found, PLAIN / divisor, atol=1e-7)
    assert factor == sharper


def test_gguf_factors_beside_a_scaling() -> None:
    factors = np.array([1.0, 2.0, 3.0, 8.0], "float32")
    found, factor = frequencies({"scaling.factor": 4.0, "scaling.attn_factor": 0.5}, factors)
    close(found, PLAIN / factors / 4, atol=1e-7)
    assert factor == 0.5


@pytest.mark.parametrize(("given", "sharper"), [({}, 1.0), ({"scaling.attn_factor": 0.5}, 0.5)])
def test_gguf_yarn(given: dict[str, Any], sharper: float) -> None:
    fields = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 16, **given}
    found, factor = frequencies(fields)
    close(found, rotary_frequencies(8, 10_000.0, YARN)[0], atol=0)
    assert factor == pytest.approx(sharper * (0.1 * math.log(4) + 1))
    assert frequencies({"scaling.type": "yarn"})[1] == 1.0


SIZES = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4}
MIXED = ("sliding_attention", "full_attention", "sliding_attention")


@pytest.mark.parametrize(
    ("kind", "entries", "fields"),
    [
        # transformers 5 obeys layer_types though use_sliding_window is false
        ("smollm3", {"sliding_window": 3, "layer_types": list(MIXED)}, {"layer_types": MIXED, "sliding_window": 3}),
        ("smollm3", {"layer_types": list(MIXED)}, {"layer_types": None, "sliding_window": None}),
        ("smollm3", {"no_rope_layers": [1, 0, 1]}, {"unrotated_layers": (1,)}),
        ("gpt_neox", {"rope_theta": 50.0, "partial_rotary_factor": 1.0}, {"rope_theta": 10_000.0, "rotary_dim": 1}),
        ("gpt_neox", {"rotary_emb_base": 50, "rotary_pct": 0.5}, {"rope_theta": 50.0, "rotary_dim": 2}),
        ("gpt_neox", {"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}}, {"rotary_dim": 4}),
        ("olmo3", {"rope_theta": 900.0}, {"rope_theta": 900.0, "sliding_rope_theta": 500_000.0}),
        ("olmo3", {}, {"rope_theta": 500_000.0, "sliding_rope_theta": None}),
        (
            "gemma3_text",
            {"rope_theta": 900.0, "rope_local_base_freq": 7.0},
            {"rope_theta": 900.0, "sliding_rope_theta": 7.0},
        ),
        ("gemma", {"hidden_act": "gelu"}, {"activation": "geglu", "embedding_scale": 4.0}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 5}, {"sliding_window": 5}),
        ("falcon", {"n_embed": 32}, {"hidden_dim": 32}),
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["local", "global"], 1]]}, {"layer_types": MIXED[:2]}),
    ],
)
def test_entries_that_decoders_read(kind: str, entries: dict[str, Any], fields: dict[str, Any]) -> None:
    sizes = {name: value for name, value in SIZES.items() if kind != "gpt_neo" or "layers" not in name}
    found = az.GPT.dialects[kind].config({**sizes, **entries}, {})
    assert {name: found[name] for name in fields} == fields


def test_what_bloom_leaves_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slow_but_exact: got true with pretraining_tp 2; accepted: false"):
        az.GPT.dialects["bloom"].config({**SIZES, "slow_but_exact": True, "pretraining_tp": 2}, {})
