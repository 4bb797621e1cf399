"""Write the reference checkpoints: small random models, saved and computed by transformers.

    python tests/goldens/make.py [names...]      # all, or those named; needs the packages in versions.json

Every folder is one checkpoint as written by ``save_pretrained``, with ``golden.npz``: inputs and the outputs that the
reference implementation computes from them in float32, with eager attention, in eval mode. The same package versions
write the same bytes. README.md describes the names of the arrays.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
LENGTHS = (11, 4, 1)
NEW_TOKENS = 8
# With a smaller margin, two correct float32 implementations may choose different tokens.
LEAST_MARGIN = 1e-3
EAGER = {"attn_implementation": "eager"}
Tensors = dict[str, torch.Tensor]
Arrays = Mapping[str, Any]

GOLDENS: dict[str, Callable[[Path], None]] = {}


def golden(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """Register `function` as the writer of the folder with its name, with hyphens."""
    GOLDENS[function.__name__.replace("_", "-")] = function
    return function


# ── Weights, files and inputs ────────────────────────────────────────────────────────────────────────────────────────


def seed_of(folder: Path) -> int:
    return zlib.crc32(folder.name.encode())


def randomise(model: Any, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """Give every parameter a random value of `dtype`, around 1 for scales and 0 for others; frozen tables are kept."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scales = name.endswith(("lambda1", "weight")) and parameter.ndim == 1
        noise = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data.copy_((noise + (1.0 if scales else 0.0)).to(dtype))
    return model.eval()


def new(folder: Path, cls: Any, config: Any) -> Any:
    """Return a model of `cls` with random weights that computes in float32 with eager attention."""
    config._attn_implementation = "eager"
    return randomise(cls(config), seed_of(folder))


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_tensors(path: Path, tensors: Tensors) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def edit_json(path: Path, drop: Sequence[str] = (), **changes: Any) -> None:
    kept = {name: value for name, value in json.loads(path.read_text()).items() if name not in drop}
    write_json(path, {**kept, **changes})


def ids(rng: np.random.Generator, shape: Sequence[int], vocab_size: int, above: int = 3) -> torch.Tensor:
    """Return random token ids from `above` on; lower ids are padding, start and end tokens."""
    return torch.tensor(rng.integers(above, vocab_size, shape))


def mask_of(lengths: Sequence[int], left: bool = False) -> torch.Tensor:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return (mask.flip(1) if left else mask).long()


def pad(rows: torch.Tensor, mask: torch.Tensor, value: int) -> torch.Tensor:
    """Write each row's first tokens where `mask` is 1, and `value` elsewhere."""
    padded = torch.full_like(rows, value)
    for row, kept, into in zip(rows, mask.bool(), padded, strict=True):
        into[kept] = row[: kept.sum()]
    return padded


@torch.no_grad()
def results(model: Any, inputs: Arrays, names: Sequence[str], **options: Any) -> dict[str, torch.Tensor]:
    computed = model(**inputs, **options)
    return {name: computed[name] for name in names}


def case(name: str, inputs: Arrays, outputs: Arrays, mask: torch.Tensor | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of one case, named ``case/array``; outputs at padded positions are meaningless and set to 0."""
    arrays: dict[str, np.ndarray] = {}
    for key, value in {**inputs, **outputs}.items():
        array = np.asarray(value)
        if key in outputs and mask is not None and array.shape[:2] == tuple(mask.shape):
            array = np.where(mask.numpy().reshape(*mask.shape, *[1] * (array.ndim - 2)) == 1, array, 0)
        assert np.isfinite(array).all(), key
        arrays[f"{name}/{key}"] = array.astype("float32" if array.dtype.kind == "f" else "int32")
    return arrays


def write_golden(folder: Path, *cases: Mapping[str, np.ndarray]) -> None:
    np.savez_compressed(folder / "golden.npz", **{key: value for part in cases for key, value in part.items()})


def reread(folder: Path, cls: Any, **options: Any) -> None:
    """Check that transformers computes the outputs in golden.npz from the folder alone."""
    model = cls.from_pretrained(folder, dtype=torch.float32, **EAGER).eval()
    arrays = dict(np.load(folder / "golden.npz"))
    for name in sorted({key.partition("/")[0] for key in arrays} - {"generate"}):
        parts = {
            key.partition("/")[2]: torch.tensor(value) for key, value in arrays.items() if key.startswith(name + "/")
        }
        inputs = {key: value for key, value in parts.items() if key.endswith(("ids", "mask", "values"))}
        inputs = {key: value.long() if value.dtype == torch.int32 else value for key, value in inputs.items()}
        extra = options if name != "square" else {}
        mask = inputs.get("decoder_attention_mask", inputs.get("attention_mask"))
        for key, value in case(name, {}, results(model, inputs, sorted(parts.keys() - inputs), **extra), mask).items():
            np.testing.assert_allclose(value, arrays[key], rtol=0, atol=2e-5, err_msg=f"{folder.name} {key}")


# ── Decoders ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def places(mask: torch.Tensor) -> torch.Tensor:
    """Return positions counted along the mask, as in ``generate``."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def causal_cases(folder: Path, model: Any, long: int | None = None) -> list[dict[str, np.ndarray]]:
    """Return cases with right and left padding, and with one `long` row if given."""
    rng = np.random.default_rng(seed_of(folder))
    rows = ids(rng, (len(LENGTHS), max(LENGTHS)), model.config.vocab_size)
    cases: list[dict[str, np.ndarray]] = []
    for name, left in (("right", False), ("left", True)):
        mask = mask_of(LENGTHS, left)
        inputs = {"input_ids": pad(rows, mask, 0), "attention_mask": mask}
        if left:
            inputs["position_ids"] = places(mask)
        cases.append(case(name, inputs, results(model, inputs, ["logits"]), mask))
    right, left = (cases[i][f"{name}/logits"] for i, name in enumerate(("right", "left")))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(left[row, -length:], right[row, :length], rtol=0, atol=2e-5)
    if long:
        inputs = {"input_ids": ids(rng, (1, long), model.config.vocab_size)}
        cases.append(case("long", inputs, results(model, inputs, ["logits"])))
    return cases


@torch.no_grad()
def greedy(model: Any, prompt: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray] | None:
    """Return the greedy continuation of ``generate``, not stopped by an end token.

    The result is None if two tokens are almost equally likely, or if tokens are too repetitive or special.
    """
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": model.config.pad_token_id or 0}
    start = getattr(model.config, "decoder_start_token_id", None)
    model.generation_config = hf.GenerationConfig(**options, decoder_start_token_id=start)
    made = model.generate(**prompt, return_dict_in_generate=True, output_logits=True)
    tokens = made.sequences[:, -NEW_TOKENS:]
    assert made.sequences.shape[1] == NEW_TOKENS + (1 if start is not None else prompt["input_ids"].shape[1])
    best, second = torch.stack(made.logits, 1).topk(2).values.unbind(-1)
    margin, different = (best - second).min().item(), min(row.unique().numel() for row in tokens)
    special = {0, model.config.eos_token_id, model.config.pad_token_id, start} & set(tokens.flatten().tolist())
    if margin < LEAST_MARGIN or different < 3 or special:
        return None
    return case("generate", prompt, {"tokens": tokens})


def generating(
    model: Any, prompt: Mapping[str, torch.Tensor], seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, np.ndarray]:
    """Set random weights from the first seed with a meaningful greedy continuation, and return that continuation."""
    own = model.generation_config
    for attempt in range(seed, seed + 10_000):
        continuation = greedy(randomise(model, attempt, dtype), prompt)
        if continuation:
            model.generation_config = own
            return continuation
    raise AssertionError("no seed has a telling continuation")


def write_causal(
    folder: Path, cls: Any, config: Any, long: int | None = None, dtype: torch.dtype = torch.float32, shard: str = "1GB"
) -> Any:
    """Write one decoder: its folder, its outputs, and eight greedy tokens after left-padded prompts."""
    model = new(folder, cls, config)
    rows = ids(np.random.default_rng(seed_of(folder)), (len(LENGTHS), max(LENGTHS)), config.vocab_size)
    mask = mask_of(LENGTHS, left=True)
    prompt = {"input_ids": pad(rows, mask, 0), "attention_mask": mask}
    continuation = generating(model, prompt, seed_of(folder), dtype)
    write_golden(folder, *causal_cases(folder, model, long), continuation)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    reread(folder, cls)
    return model


def gpt2_config(**changes: Any) -> Any:
    sizes = {"vocab_size": 97, "n_positions": 40, "n_embd": 20, "n_layer": 2, "n_head": 2}
    return hf.GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 2, **changes})


@golden
def gpt2(folder: Path) -> None:
    """Leave n_inner null, so that the inner size is 4 × n_embd; use gelu_new and a tied head."""
    write_causal(folder, hf.GPT2LMHeadModel, gpt2_config())


@golden
def gpt2_inner(folder: Path) -> None:
    """Use an inner size that is not a multiple of n_embd, exact GELU, another epsilon, and an untied head."""
    changes = {"n_inner": 44, "activation_function": "gelu", "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False}
    write_causal(folder, hf.GPT2LMHeadModel, gpt2_config(n_embd=18, n_head=3, **changes))


@golden
def gpt2_published(folder: Path) -> None:
    """Write names as in openai-community/gpt2: no ``transformer.`` prefix, and the causal masks as buffers."""
    model = write_causal(folder, hf.GPT2LMHeadModel, gpt2_config(n_positions=24, n_embd=16, n_head=2))
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in stored(folder).items()}
    length = model.config.n_positions
    for layer in range(model.config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, length, length).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    write_tensors(folder / "model.safetensors", tensors)
    drop = ("dtype", "add_cross_attention", "pad_token_id", "tie_word_embeddings", "n_inner")
    tasks = {"text-generation": {"do_sample": True, "max_length": 50}}
    edit_json(folder / "config.json", drop, n_ctx=length, task_specific_params=tasks)
    reread(folder, hf.GPT2LMHeadModel)


def stored(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def llama_config(cls: Any = hf.LlamaConfig, **changes: Any) -> Any:
    sizes = {"vocab_size": 97, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40}
    return cls(**{**sizes, **heads, "bos_token_id": 1, "eos_token_id": 2, **changes})


def rope(kind: str = "default", theta: float = 500.0, **fields: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **fields}


def old_rope(folder: Path, cls: Any, name: str = "config.hub.json") -> None:
    """Write the same settings as a config from before transformers 5, read it back and compare."""
    config = json.loads((folder / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    # The oldest files have "type" instead of "rope_type".
    kind = parameters.pop("rope_type")
    key = "type" if kind == "linear" else "rope_type"
    config["rope_scaling"] = None if kind == "default" else {key: kind, **parameters}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    now = cls.from_json_file(folder / "config.json")
    write_json(folder / name, config)
    old = cls.from_json_file(folder / name)
    for read in (old, now):
        read.standardize_rope_params()
    same = {key: value for key, value in old.rope_parameters.items() if key != "type"}
    assert same == now.rope_parameters, (old.rope_parameters, now.rope_parameters)


@golden
def llama(folder: Path) -> None:
    """Use a head_dim other than hidden_size / num_attention_heads, two query heads per key head, and an untied head."""
    config = llama_config(head_dim=10, rms_norm_eps=1e-3, rope_parameters=rope())
    write_causal(folder, hf.LlamaForCausalLM, config)
    old_rope(folder, hf.LlamaConfig)


@golden
def llama_tied(folder: Path) -> None:
    """Tie the head as in SmolLM2, with all possible biases and three query heads per key head."""
    config = llama_config(
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    )
    write_causal(folder, hf.LlamaForCausalLM, config)


def write_scaled(folder: Path, **scaling: Any) -> None:
    """Write a Llama with scaled rotary positions, computed beyond its original training length."""
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12, "tie_word_embeddings": True}
    config = llama_config(**sizes, rope_parameters=rope(**scaling))
    write_causal(folder, hf.LlamaForCausalLM, config, long=27)
    old_rope(folder, hf.LlamaConfig)


@golden
def llama_linear(folder: Path) -> None:
    write_scaled(folder, kind="linear", factor=2.5)


@golden
def llama_llama3(folder: Path) -> None:
    """Cover wavelengths from 6 to 164: one is kept, two are interpolated, three are scaled."""
    factors = {"factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0}
    write_scaled(folder, kind="llama3", theta=50.0, original_max_position_embeddings=20, **factors)


@golden
def llama_yarn(folder: Path) -> None:
    """Use a ramp over features 1 to 4 of 6, and the default attention factor."""
    betas = {"beta_fast": 1.5, "beta_slow": 0.3}
    write_scaled(folder, kind="yarn", theta=50.0, factor=4.0, original_max_position_embeddings=20, **betas)


@golden
def llama_sharded(folder: Path) -> None:
    """Write two files and an index, an old config.json, and the frequency buffers that old files contain."""
    config = llama_config(rope_parameters=rope(theta=10000.0))
    model = write_causal(folder, hf.LlamaForCausalLM, config, shard="28KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2, index
    first = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(first)
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = model.model.rotary_emb.inv_freq.clone()
        index["weight_map"][name] = first.name
        index["metadata"]["total_size"] += tensors[name].nbytes
    write_tensors(first, tensors)
    write_json(folder / "model.safetensors.index.json", index)
    old_rope(folder, hf.LlamaConfig, "config.json")
    reread(folder, hf.LlamaForCausalLM)


@golden
def llama_bf16(folder: Path) -> None:
    """Store the weights in bfloat16; the outputs are computed from them in float32."""
    write_causal(folder, hf.LlamaForCausalLM, llama_config(rope_parameters=rope()), dtype=torch.bfloat16)


@golden
def llama_fp16(folder: Path) -> None:
    """Same as llama-bf16, but in float16 and with an old config.json."""
    write_causal(folder, hf.LlamaForCausalLM, llama_config(rope_parameters=rope()), dtype=torch.float16)
    old_rope(folder, hf.LlamaConfig, "config.json")
    reread(folder, hf.LlamaForCausalLM)


@golden
def mistral(folder: Path) -> None:
    """Use a window of five keys, including the query's own position, and a head dimension of 14."""
    config = llama_config(
        hf.MistralConfig, sliding_window=5, num_attention_heads=2, num_key_value_heads=1, head_dim=14, rms_norm_eps=1e-5
    )
    write_causal(folder, hf.MistralForCausalLM, config)
    old_rope(folder, hf.MistralConfig)


@golden
def qwen2(folder: Path) -> None:
    """Use biases on query, key and value only, and a tied head."""
    config = llama_config(hf.Qwen2Config, tie_word_embeddings=True, rope_parameters=rope(theta=1e6))
    write_causal(folder, hf.Qwen2ForCausalLM, config)
    old_rope(folder, hf.Qwen2Config)


@golden
def qwen3(folder: Path) -> None:
    """Normalize query and key per head; head_dim is not hidden_size / num_attention_heads; tied."""
    sizes = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10}
    config = llama_config(hf.Qwen3Config, **sizes, tie_word_embeddings=True, rms_norm_eps=1e-4)
    write_causal(folder, hf.Qwen3ForCausalLM, config)
    old_rope(folder, hf.Qwen3Config)


# ── BERT and related models ──────────────────────────────────────────────────────────────────────────────────────────

SEQUENCE = ("logits",)
SPANS = ("start_logits", "end_logits")
STATES = ("last_hidden_state", "pooler_output")
LABELS = {0: "no", 1: "perhaps", 2: "yes"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


def labels(names: Mapping[int, str]) -> dict[str, Any]:
    return {"id2label": dict(names), "label2id": {label: i for i, label in names.items()}}


def write_encoder(folder: Path, cls: Any, config: Any, outputs: Sequence[str], left: bool = False) -> Any:
    """Write cases with right padding and, if positions are counted along the tokens (RoBERTa), with left padding."""
    model = new(folder, cls, config)
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed_of(folder))
    rows = ids(rng, (len(LENGTHS), max(LENGTHS)), config.vocab_size)
    types = torch.tensor(rng.integers(0, getattr(config, "type_vocab_size", 1), tuple(rows.shape)))
    cases = []
    for name in ("right", "left")[: 2 if left else 1]:
        mask = mask_of(LENGTHS, name == "left")
        inputs = {"input_ids": pad(rows, mask, config.pad_token_id), "attention_mask": mask}
        if getattr(config, "type_vocab_size", 1) > 1:
            inputs["token_type_ids"] = pad(types, mask, 0)
        cases.append(case(name, inputs, results(model, inputs, outputs), mask))
    write_golden(folder, *cases)
    reread(folder, cls)
    return model


def bert_config(hidden_size: int = 16, **changes: Any) -> Any:
    sizes = {"vocab_size": 97, "hidden_size": hidden_size, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": hidden_size // 8, "max_position_embeddings": 40}
    return hf.BertConfig(**{**sizes, **heads, **changes})


@golden
def bert(folder: Path) -> None:
    """Use exact GELU, epsilon 1e-12 and two token types; the decoder is tied and has a bias."""
    write_encoder(folder, hf.BertForMaskedLM, bert_config(24), SEQUENCE)


@golden
def bert_backbone(folder: Path) -> None:
    """Write names without a prefix; three token types, approximate GELU, another epsilon."""
    config = bert_config(24, num_attention_heads=4, type_vocab_size=3, hidden_act="gelu_new", layer_norm_eps=1e-3)
    write_encoder(folder, hf.BertModel, config, STATES)


@golden
def bert_sequence(folder: Path) -> None:
    config = bert_config(hidden_act="relu", layer_norm_eps=1e-4, **labels(LABELS))
    write_encoder(folder, hf.BertForSequenceClassification, config, SEQUENCE)


@golden
def bert_token(folder: Path) -> None:
    """The file has no pooler."""
    write_encoder(folder, hf.BertForTokenClassification, bert_config(**labels(TAGS)), SEQUENCE)


@golden
def bert_qa(folder: Path) -> None:
    """The file has no pooler; ``qa_outputs`` returns start and end logits."""
    write_encoder(folder, hf.BertForQuestionAnswering, bert_config(layer_norm_eps=1e-5), SPANS)


@golden
def bert_published(folder: Path) -> None:
    """Write tensors as in google-bert/bert-base-uncased: pooler, both training heads, gamma and beta, position_ids."""
    config = bert_config()
    write_encoder(folder, hf.BertForPreTraining, config, ["prediction_logits"])
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = stored(folder)
    for now, before in old.items():
        tensors = {name.replace(now, before): tensor for name, tensor in tensors.items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    write_tensors(folder / "model.safetensors", tensors)
    drop = ("dtype", "add_cross_attention", "bos_token_id", "eos_token_id", "is_decoder", "classifier_dropout")
    changes = {
        "architectures": ["BertForMaskedLM"],
        "position_embedding_type": "absolute",
        "gradient_checkpointing": False,
    }
    edit_json(folder / "config.json", (*drop, "tie_word_embeddings"), **changes, transformers_version="4.6.0.dev0")
    rename_output(folder, "prediction_logits", "logits")
    reread(folder, hf.BertForMaskedLM)


def rename_output(folder: Path, old: str, new_name: str) -> None:
    arrays = dict(np.load(folder / "golden.npz"))
    write_golden(folder, {key.replace(f"/{old}", f"/{new_name}"): value for key, value in arrays.items()})


def roberta_config(cls: Any = hf.RobertaConfig, **changes: Any) -> Any:
    """Return a config whose table of 42 positions allows 40 tokens, since positions begin at pad_token_id + 1 = 2."""
    sizes = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 42, "type_vocab_size": 1}
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return cls(**{**sizes, **heads, **tokens, "layer_norm_eps": 1e-5, **changes})


@golden
def roberta(folder: Path) -> None:
    """Use an ``lm_head`` with a bias; there is a single token type, whose embedding is always added."""
    write_encoder(folder, hf.RobertaForMaskedLM, roberta_config(), SEQUENCE, left=True)


@golden
def roberta_backbone(folder: Path) -> None:
    write_encoder(folder, hf.RobertaModel, roberta_config(layer_norm_eps=1e-3), STATES, left=True)


@golden
def roberta_sequence(folder: Path) -> None:
    """The head has two layers with tanh, applied to the first token; there is no pooler."""
    write_encoder(folder, hf.RobertaForSequenceClassification, roberta_config(**labels(LABELS)), SEQUENCE)


@golden
def roberta_token(folder: Path) -> None:
    write_encoder(folder, hf.RobertaForTokenClassification, roberta_config(**labels(TAGS)), SEQUENCE)


@golden
def roberta_qa(folder: Path) -> None:
    write_encoder(folder, hf.RobertaForQuestionAnswering, roberta_config(), SPANS)


@golden
def xlm_roberta(folder: Path) -> None:
    """The model is RoBERTa with another model_type."""
    write_encoder(folder, hf.XLMRobertaForMaskedLM, roberta_config(hf.XLMRobertaConfig), SEQUENCE, left=True)


def distilbert_config(**changes: Any) -> Any:
    sizes = {"vocab_size": 97, "dim": 16, "hidden_dim": 20, "n_layers": 2, "n_heads": 2}
    return hf.DistilBertConfig(**{**sizes, "max_position_embeddings": 40, **changes})


@golden
def distilbert(folder: Path) -> None:
    """There are no token types; positions are learned; epsilon 1e-12 is fixed in the code and not in the config."""
    write_encoder(folder, hf.DistilBertForMaskedLM, distilbert_config(), SEQUENCE)


@golden
def distilbert_sinusoidal(folder: Path) -> None:
    """Use a frozen table of interleaved sines and cosines, which the file still contains, and ReLU."""
    config = distilbert_config(sinusoidal_pos_embds=True, activation="relu")
    write_encoder(folder, hf.DistilBertForMaskedLM, config, SEQUENCE)


@golden
def distilbert_backbone(folder: Path) -> None:
    write_encoder(folder, hf.DistilBertModel, distilbert_config(), ["last_hidden_state"])


@golden
def distilbert_sequence(folder: Path) -> None:
    """The head applies ``pre_classifier`` and ReLU to the first token."""
    write_encoder(folder, hf.DistilBertForSequenceClassification, distilbert_config(**labels(LABELS)), SEQUENCE)


@golden
def distilbert_token(folder: Path) -> None:
    write_encoder(folder, hf.DistilBertForTokenClassification, distilbert_config(**labels(TAGS)), SEQUENCE)


@golden
def distilbert_qa(folder: Path) -> None:
    write_encoder(folder, hf.DistilBertForQuestionAnswering, distilbert_config(), SPANS)


# ── Sentence embeddings ──────────────────────────────────────────────────────────────────────────────────────────────


def write_sentence(folder: Path, modules: Sequence[str], pooling: Mapping[str, Any], embed: Callable[..., Any]) -> None:
    """Write a folder as SentenceTransformer.save does for a BertModel; `embed` computes what its modules specify."""
    write_encoder(folder, hf.BertModel, bert_config(), STATES)
    tensors = {**stored(folder), "embeddings.position_ids": torch.arange(40)[None]}
    write_tensors(folder / "model.safetensors", tensors)
    reread(folder, hf.BertModel)
    for index, kind in enumerate(modules):
        path = "" if index == 0 else f"{index}_{kind}"
        modules_json = json.loads((folder / "modules.json").read_text()) if index else []
        entry = {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        write_json(folder / "modules.json", [*modules_json, entry])
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **pooling})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    write_json(folder / "config_sentence_transformers.json", {"__version__": versions})
    arrays = dict(np.load(folder / "golden.npz"))
    states, mask = (torch.tensor(arrays[f"right/{name}"]) for name in ("last_hidden_state", "attention_mask"))
    arrays["right/sentence_embedding"] = embed(states, mask.float()[..., None]).numpy()
    write_golden(folder, arrays)


@golden
def sentence_mean(folder: Path) -> None:
    """Use all-MiniLM's modules: mean over kept tokens, then normalization. The pooling config has the oldest form."""
    modes = {"cls_token": False, "mean_tokens": True, "max_tokens": False, "mean_sqrt_len_tokens": False}
    write_sentence(
        folder,
        ("Transformer", "Pooling", "Normalize"),
        {f"pooling_mode_{name}": value for name, value in modes.items()},
        lambda states, mask: torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1),
    )


@golden
def sentence_cls(folder: Path) -> None:
    """Return the first token's state without Normalize."""
    modes = {"cls_token": True, "mean_tokens": False, "max_tokens": False, "mean_sqrt_len_tokens": False}
    later = {"weightedmean_tokens": False, "lasttoken": False}
    pooling = {f"pooling_mode_{name}": value for name, value in {**modes, **later}.items()}
    modules = ("Transformer", "Pooling")
    write_sentence(folder, modules, {**pooling, "include_prompt": True}, lambda states, mask: states[:, 0])


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SHAPES = {"square": (12, 12), "wide": (12, 20), "tall": (20, 8)}


def write_vision(
    folder: Path, cls: Any, config: Any, outputs: Sequence[str], shapes: Sequence[str] = ("square",), **options: Any
) -> None:
    """Write cases with pixels as (batch, channels, height, width); `options` apply to images that are not square."""
    model = new(folder, cls, config)
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed_of(folder))
    cases = []
    for name in shapes:
        batch = 2 if name == "square" else 1
        pixels = torch.tensor(rng.normal(0, 1, (batch, config.num_channels, *SHAPES[name])), dtype=torch.float32)
        extra = options if name != "square" else {}
        cases.append(case(name, {"pixel_values": pixels}, results(model, {"pixel_values": pixels}, outputs, **extra)))
    write_golden(folder, *cases)
    reread(folder, cls, **options)


def vit_config(cls: Any = hf.ViTConfig, **changes: Any) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    inner = {"intermediate_size": 36} if cls in (hf.ViTConfig, hf.DeiTConfig) else {}
    return cls(**{**sizes, **inner, "image_size": 12, "patch_size": 4, **changes})


@golden
def vit(folder: Path) -> None:
    write_vision(folder, hf.ViTForImageClassification, vit_config(**labels(TAGS)), SEQUENCE)


@golden
def vit_no_bias(folder: Path) -> None:
    """Use no bias on query, key and value, one channel, ReLU, and another epsilon."""
    changes = {"qkv_bias": False, "num_channels": 1, "hidden_act": "relu", "layer_norm_eps": 1e-3}
    write_vision(folder, hf.ViTForImageClassification, vit_config(**changes, **labels(LABELS)), SEQUENCE)


@golden
def vit_backbone(folder: Path) -> None:
    """Write ViTModel with its tanh pooler, and other image shapes with interpolate_pos_encoding."""
    write_vision(folder, hf.ViTModel, vit_config(), STATES, tuple(SHAPES), interpolate_pos_encoding=True)


@golden
def deit(folder: Path) -> None:
    """Use a single head on the class token; the distillation token is still present."""
    write_vision(folder, hf.DeiTForImageClassification, vit_config(hf.DeiTConfig, **labels(LABELS)), SEQUENCE)


@golden
def deit_teacher(folder: Path) -> None:
    """Use two heads, whose mean is ``logits``."""
    outputs = ("logits", "cls_logits", "distillation_logits")
    config = vit_config(hf.DeiTConfig, **labels(LABELS))
    write_vision(folder, hf.DeiTForImageClassificationWithTeacher, config, outputs)


@golden
def deit_backbone(folder: Path) -> None:
    options = {"interpolate_pos_encoding": True}
    write_vision(folder, hf.DeiTModel, vit_config(hf.DeiTConfig), STATES, tuple(SHAPES), **options)


@golden
def dinov2(folder: Path) -> None:
    """Use layer scale; positions are always resized; ``pooler_output`` is the normalized class token."""
    write_vision(folder, hf.Dinov2Model, vit_config(hf.Dinov2Config, mlp_ratio=2), STATES, tuple(SHAPES))


@golden
def dinov2_classifier(folder: Path) -> None:
    """The head uses the concatenated class token and mean of the patches; the body has the prefix ``dinov2.``."""
    config = vit_config(hf.Dinov2Config, mlp_ratio=2, **labels(LABELS))
    write_vision(folder, hf.Dinov2ForImageClassification, config, SEQUENCE)


@golden
def dinov2_swiglu(folder: Path) -> None:
    """Use DINOv2-giant's feed-forward of size 24: 2/3 of mlp_ratio × hidden_size, rounded up to a multiple of 8."""
    config = vit_config(hf.Dinov2Config, mlp_ratio=2, use_swiglu_ffn=True, layer_norm_eps=1e-3)
    write_vision(folder, hf.Dinov2Model, config, STATES)


@golden
def dinov2_registers(folder: Path) -> None:
    """Use three register tokens after the class token, without positions."""
    config = vit_config(hf.Dinov2WithRegistersConfig, mlp_ratio=2, num_register_tokens=3)
    write_vision(folder, hf.Dinov2WithRegistersModel, config, STATES, tuple(SHAPES))


# ── Encoder–decoders ─────────────────────────────────────────────────────────────────────────────────────────────────


def write_translator(folder: Path, cls: Any, config: Any, prepare: Callable[[Any], None]) -> None:
    """Write sources and targets of different lengths, padded on the right, and greedy tokens after the start token."""
    config._attn_implementation = "eager"
    model = cls(config)
    prepare(model)
    rng = np.random.default_rng(seed_of(folder))
    source, target = mask_of(LENGTHS), mask_of((5, 8, 2))
    prompt = {"input_ids": pad(ids(rng, source.shape, 96), source, config.pad_token_id), "attention_mask": source}
    continuation = generating(model, prompt, seed_of(folder))
    decoder = pad(ids(rng, target.shape, 96), target, config.pad_token_id)
    decoder[:, 0] = config.decoder_start_token_id
    inputs = {**prompt, "decoder_input_ids": decoder, "decoder_attention_mask": target}
    write_golden(folder, case("right", inputs, results(model, inputs, ["logits"]), target), continuation)
    model.save_pretrained(folder)


@golden
def marian(folder: Path) -> None:
    """Use scaled embeddings, sines then cosines, SiLU, and a bias on the logits.

    The padding token is the start token; there are one encoder layer and two decoder layers.
    """
    sizes = {"vocab_size": 97, "d_model": 20, "max_position_embeddings": 40, "encoder_layers": 1, "decoder_layers": 2}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    inner = {f"{side}_ffn_dim": 28 for side in ("encoder", "decoder")}
    tokens = {"pad_token_id": 96, "decoder_start_token_id": 96, "eos_token_id": 0, "forced_eos_token_id": 0}
    config = hf.MarianConfig(
        **sizes,
        **heads,
        **inner,
        **tokens,
        scale_embedding=True,
        activation_function="swish",
        normalize_embedding=False,
    )

    def prepare(model: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=generator) * 0.2)

    write_translator(folder, hf.MarianMTModel, config, prepare)
    reread(folder, hf.MarianMTModel)


@golden
def t5(folder: Path) -> None:
    """Use version 1.1: gated GELU, a separate output matrix, and d_kv × num_heads ≠ d_model.

    There are 8 buckets up to distance 12.
    """
    sizes = {"vocab_size": 97, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_heads": 3, "num_layers": 3}
    buckets = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
    config = hf.T5Config(
        **sizes,
        **buckets,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-4,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )

    def prepare(model: Any) -> None:
        """Untie the output matrix, as in files of version 1.1; transformers 5 ties it in every T5."""
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())

    write_translator(folder, hf.T5ForConditionalGeneration, config, prepare)
    # The config is that of google/t5-v1_1-small.
    edit_json(
        folder / "config.json", ("dense_act_fn", "is_gated_act", "scale_decoder_outputs"), tie_word_embeddings=False
    )
    reread(folder, hf.T5ForConditionalGeneration)


# ── Search: beams, penalties, forbidden and forced tokens ────────────────────────────────────────────────────────────

SEARCHED = {
    "gpt2": hf.GPT2LMHeadModel,
    "llama": hf.LlamaForCausalLM,
    "marian": hf.MarianMTModel,
    "t5": hf.T5ForConditionalGeneration,
}
SEARCH_TOKENS = 12


def search_options(likely: Sequence[int], vocab_size: int) -> dict[str, dict[str, Any]]:
    """Return generation configs by name. They change what is generated because they contain `likely` tokens."""
    a, b, c, d = likely
    every = [token for token in range(vocab_size) if token % 3]
    biases = [[[a], -2.5], [[b, c], 6.0], [[d], 1.5]]
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "penalty": {"repetition_penalty": 1.6},
        "reward": {"repetition_penalty": 0.7},
        "source_penalty": {"encoder_repetition_penalty": 1.8},
        "ngram_1": {"no_repeat_ngram_size": 1},
        "ngram_2": {"no_repeat_ngram_size": 2},
        "ngram_3": {"no_repeat_ngram_size": 3},
        "source_ngram_1": {"encoder_no_repeat_ngram_size": 1},
        "source_ngram_2": {"encoder_no_repeat_ngram_size": 2},
        "bad_words": {"bad_words_ids": [[a], [b, c], [c, d, a]]},
        "biases": {"sequence_bias": biases},
        "min_length": {"min_length": 15},
        "min_new_tokens": {"min_new_tokens": 9},
        "max_length": {"max_length": 17, "max_new_tokens": None},
        "forced_bos": {"forced_bos_token_id": d},
        "forced_eos": {"forced_eos_token_id": a},
        "forced_eos_several": {"forced_eos_token_id": [a, d]},
        "suppress": {"suppress_tokens": [a, c]},
        "begin_suppress": {"begin_suppress_tokens": every},
        "begin_after_bos": {"begin_suppress_tokens": every, "forced_bos_token_id": d},
        "decay": {"exponential_decay_length_penalty": [2, 1.5]},
        "all": {
            **{"repetition_penalty": 1.3, "encoder_repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
            **{"encoder_no_repeat_ngram_size": 3, "bad_words_ids": [[a], [b, c]], "sequence_bias": biases},
            **{"min_new_tokens": 4, "forced_eos_token_id": b, "suppress_tokens": [c]},
            **{"begin_suppress_tokens": every, "exponential_decay_length_penalty": [5, 1.2]},
        },
    }
    found = dict(changes)
    for name in ("plain", "penalty", "ngram_2", "source_ngram_1", "bad_words", "biases", "min_new_tokens", "max_length",
                 "forced_bos", "forced_eos", "suppress", "decay", "all"):  # fmt: skip
        found[f"{name}-beams"] = {**changes[name], "num_beams": 3}
    for power in (0.0, 2.0, -1.0):
        for early in (True, False, "never"):
            ending = {"length_penalty": power, "early_stopping": early}
            found[f"beams-{power}-{early}"] = {"num_beams": 3, "num_return_sequences": 3, **ending}
            found[f"penalty-beams-{power}-{early}"] = {"num_beams": 2, "repetition_penalty": 1.4, **ending}
    found["normalized-beams"] = {**changes["all"], "num_beams": 3, "renormalize_logits": True}
    return found


@torch.no_grad()
def searched(model: Any, prompt: Tensors, options: Arrays) -> torch.Tensor:
    """Return what ``generate`` returns, for each row alone if an option counts tokens of the prompt.

    transformers counts padding among them, so that the pad token becomes more likely.
    """
    given = {name: value for name, value in options.items() if value is not None}
    model.generation_config = hf.GenerationConfig(**given)
    if not any(name.startswith("encoder_") for name in given):
        return model.generate(**prompt)
    rows = []
    for row, mask in zip(prompt["input_ids"], prompt["attention_mask"].bool(), strict=True):
        alone = {"input_ids": row[mask][None], "attention_mask": mask[mask].long()[None]}
        (made,) = model.generate(**alone)
        start = made[:1] if model.config.is_encoder_decoder else row
        rows.append(torch.cat([start, made[len(start) if model.config.is_encoder_decoder else mask.sum() :]]))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=given["pad_token_id"])


def search_cases(name: str, cls: Any) -> dict[str, Any]:
    """Return prompts of unequal lengths, and their continuations by ``generate`` under each generation config.

    A config is only used if weights that differ by 1e-5 give the same tokens, so that rounding does not decide.
    """
    model = cls.from_pretrained(HERE / name, dtype=torch.float32, **EAGER).eval()
    shaken = cls.from_pretrained(HERE / name, dtype=torch.float32, **EAGER).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in shaken.parameters():
        parameter.data *= 1 + 1e-5 * torch.randn(parameter.shape, generator=generator)
    config, encodes = model.config, model.config.is_encoder_decoder
    special = {"pad_token_id": 96 if name == "marian" else 0}
    if encodes:
        special["decoder_start_token_id"] = config.decoder_start_token_id
    for seed in range(1000):
        rng = np.random.default_rng([seed_of(HERE / name), seed])
        mask = mask_of(LENGTHS, left=not encodes)
        prompt = {"input_ids": pad(ids(rng, mask.shape, 96), mask, special["pad_token_id"]), "attention_mask": mask}
        tokens = searched(model, prompt, {**special, "max_new_tokens": SEARCH_TOKENS})[:, -SEARCH_TOKENS:]
        often = [int(token) for token in tokens[:, 1:].flatten().unique() if token > 2]
        if len(often) < 4:
            continue
        others = [int(token) for token in prompt["input_ids"].flatten().unique() if token > 2 and token not in often]
        chosen = [int(token) for token in (*rng.permutation(often), *rng.permutation(others))]
        chosen = [*chosen[2:4], *chosen[:2], *chosen[4:]]  # the most telling ones are those of the configs
        own = {**special, "max_new_tokens": SEARCH_TOKENS, "eos_token_id": sorted(chosen[:2])}
        cases = {}
        for key, changes in search_options(chosen[2:6], config.vocab_size).items():
            options = {**own, **changes}
            rows, again = searched(model, prompt, options), searched(shaken, prompt, options)
            if rows.shape == again.shape and (rows == again).all():
                given = {name: value for name, value in options.items() if value is not None}
                cases[key] = {"config": given, "tokens": rows.tolist()}
        alike = sum(case["tokens"] == cases["plain"]["tokens"] for case in cases.values())
        if len(cases) > 48 and alike < 9:
            return {"prompt": {key: value.tolist() for key, value in prompt.items()}, "cases": cases}
    raise AssertionError("no prompts have enough different tokens")


FILTERS: list[dict[str, Any]] = [
    *[{"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"typical_p": 0.4}, {"typical_p": 0.95}],
    *[{"epsilon_cutoff": 0.02}, {"epsilon_cutoff": 0.9}, {"eta_cutoff": 0.3}, {"eta_cutoff": 0.003}, {"top_h": 0.3}],
    {"top_h": 0.8, "temperature": 1.7},
    {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 2.0, "top_k": 40, "typical_p": 0.8, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02},
]


def filtered(logits: torch.Tensor) -> list[dict[str, Any]]:
    """Return the probabilities that sampling draws from, under each of `FILTERS`."""
    model = hf.GPT2LMHeadModel.from_pretrained(HERE / "gpt2")
    found = []
    for options in FILTERS:
        config = hf.GenerationConfig(do_sample=True, **options)
        processors = model._get_logits_processor(config, input_ids_seq_length=1)
        chances = processors(torch.zeros(len(logits), 1, dtype=torch.long), logits).softmax(-1)
        found.append({"options": options, "chances": [[float(f"{p:.7g}") for p in row] for row in chances]})
    return found


@golden
def generation(folder: Path) -> None:
    """Write what transformers generates with the checkpoints of four other folders, under many generation configs."""
    for name, cls in SEARCHED.items():
        text = json.dumps(search_cases(name, cls))
        (folder / f"{name}.json").write_text(text.replace('}, "', '},\n"') + "\n")
    logits = np.random.default_rng(0).normal(0, 2, (2, 80)).round(3)
    text = json.dumps({"logits": logits.tolist(), "filters": filtered(torch.tensor(logits))})
    (folder / "filters.json").write_text(text.replace("}, {", "},\n{") + "\n")


# ── GGUF ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

QUANTISED = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
# The gguf package can only read these: bytes per block, and the values of its float16 scales by offset.
RANDOM_BLOCKS = {
    "Q2_K": (84, {80: 0.02, 82: 0.03}),
    "Q3_K": (110, {108: 0.003}),
    "Q4_K": (144, {0: 0.001, 2: 0.0075}),
    "Q5_K": (176, {0: 0.0005, 2: 0.0075}),
    "Q6_K": (210, {208: 0.00015}),
    "IQ4_XS": (136, {0: 0.0001}),
}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not name.startswith("model.layers."):
        return {**outer, "lm_head.weight": "output.weight"}[name]
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{GGUF_NAMES[part.removesuffix('.weight')]}.weight"


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder each head's rows from halves to pairs, as convert_hf_to_gguf.py does for Llama's query and key."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def heads_of(name: str, config: Any) -> int:
    """Return the number of heads whose rows are permuted in the file, or 0 for weights that are not permuted."""
    if "q_proj" in name:
        return config.num_attention_heads
    return config.num_key_value_heads if "k_proj" in name else 0


def random_blocks(kind: str, rows: int, width: int, seed: int) -> np.ndarray:
    """Return raw blocks of 256 values: all bits but the scales are random, so that values are finite and about 0.2."""
    size, scales = RANDOM_BLOCKS[kind]
    blocks = np.random.default_rng(seed).integers(0, 256, (rows, width // 256, size), "uint8")
    for offset, value in scales.items():
        blocks[..., offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), "uint8")
    return blocks.reshape(rows, -1)


def byte_level() -> tuple[list[str], list[str]]:
    """Return 101 tokens and their four merges: start, end, the space as Ġ, printable ASCII, and the merged tokens."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = ["t h", "th e", "Ġ the", "i n"]
    return ["<s>", "</s>", "Ġ", *letters, *(merge.replace(" ", "") for merge in merges)], merges


def write_gguf(path: Path, config: Any, weights: Mapping[str, np.ndarray], kinds: Callable[[str], str]) -> None:
    """Write a Llama as convert_hf_to_gguf.py does; `kinds` returns each matrix's type. Vectors are always F32."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    tokens, merges = byte_level()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    control = [gguf.TokenType.CONTROL] * 2
    writer.add_token_types([*control, *[gguf.TokenType.NORMAL] * (len(tokens) - 2)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for index, (name, weight) in enumerate(weights.items()):
        kind = kinds(name) if weight.ndim == 2 else "F32"
        heads = heads_of(name, config)
        values = permute(weight, heads) if heads else weight
        if kind in RANDOM_BLOCKS:
            data = random_blocks(kind, *weight.shape, seed=index)
        else:
            data = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
        own = name if name == "rope_freqs.weight" else gguf_name(name)
        writer.add_tensor(own, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantised(path: Path) -> dict[str, np.ndarray]:
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in tensors}


def gguf_case(path: Path, config: Any) -> dict[str, np.ndarray]:
    """Return transformers' outputs for the weights that the gguf package reads; transformers must read the same."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    read = dequantised(path)
    model = hf.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        weight = read[gguf_name(name)]
        heads = heads_of(name, config)
        parameter.data.copy_(torch.tensor(unpermute(weight, heads) if heads else weight))
    mask = mask_of((6, 2))
    rows = ids(np.random.default_rng(0), mask.shape, config.vocab_size)
    inputs = {"input_ids": pad(rows, mask, 0), "attention_mask": mask}
    outputs = results(model, inputs, ["logits"])
    for name, weight in load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"].items():
        torch.testing.assert_close(weight.float(), model.state_dict()[name], rtol=0, atol=0, msg=f"{path.name} {name}")
    return case(path.stem, inputs, outputs, mask)


@golden
def llama_gguf(folder: Path) -> None:
    """Write a Llama in every type that the gguf package writes, some with scaled positions, one with K-quants.

    The arrays of ``q8_0.gguf`` form the case "q8_0". ``blocks.gguf`` is not a model: it contains two rows of 256 values
    in each type, and golden.npz has those values as "blocks/<type>". tokenizer.json is the vocabulary of all files as
    tokenizers would save it, and tokens.json contains a text and its token ids.
    """
    import gguf

    tokens, merges = byte_level()
    sizes = {"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 32, "rms_norm_eps": 1e-3}
    tokens_ids = {"bos_token_id": 0, "eos_token_id": 1, "attn_implementation": "eager"}

    def config(theta: float = 500.0, **changes: Any) -> Any:
        scaling = changes.pop("scaling", {})
        return llama_config(**{**sizes, **tokens_ids, **changes}, rope_parameters=rope(theta=theta, **scaling))

    def weights(of: Any) -> dict[str, np.ndarray]:
        model = new(folder, hf.LlamaForCausalLM, of)
        return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}

    cases = []
    for kind in QUANTISED:
        path = folder / f"{kind.lower()}.gguf"
        each = config(num_hidden_layers=1 if kind in ("F16", "BF16") else 2)
        write_gguf(path, each, weights(each), lambda name, kind=kind: kind)
        cases.append(gguf_case(path, each))

    factors = {"factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0, "original_max_position_embeddings": 20}
    llama3 = config(theta=50.0, scaling={"kind": "llama3", **factors}, tie_word_embeddings=True, num_hidden_layers=1)
    plain = config(theta=50.0)
    slowed, kept = (hf.LlamaModel(each).rotary_emb.inv_freq.numpy() for each in (llama3, plain))
    path = folder / "f32-llama3.gguf"
    write_gguf(path, llama3, {**weights(llama3), "rope_freqs.weight": kept / slowed}, lambda name: "F32")
    cases.append(gguf_case(path, llama3))

    linear = config(scaling={"kind": "linear", "factor": 2.5}, num_hidden_layers=1)
    path = folder / "q8_0-linear.gguf"
    write_gguf(path, linear, weights(linear), lambda name: "Q8_0")
    cases.append(gguf_case(path, linear))

    wide = config(intermediate_size=256)
    down = {"model.layers.0.mlp.down_proj.weight": "Q4_K", "model.layers.1.mlp.down_proj.weight": "Q6_K"}
    path = folder / "k-quants.gguf"
    write_gguf(path, wide, weights(wide), lambda name: down.get(name, "Q4_0"))
    cases.append(gguf_case(path, wide))

    path = folder / "blocks.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rng = np.random.default_rng(0)
    for kind in ("F16", "BF16", *QUANTISED[2:], *RANDOM_BLOCKS):
        blocks = (
            random_blocks(kind, 2, 256, seed=1)
            if kind in RANDOM_BLOCKS
            else gguf.quantize(rng.normal(0, 0.2, (2, 256)).astype("float32"), gguf.GGMLQuantizationType[kind])
        )
        writer.add_tensor(kind.lower(), blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_golden(folder, *cases, case("blocks", {}, dequantised(path)))
    write_tokenizer(folder, tokens, merges)


def write_tokenizer(folder: Path, vocabulary: Sequence[str], merges: Sequence[str]) -> None:
    import tokenizers as tk

    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = tk.Tokenizer(tk.models.BPE({token: i for i, token in enumerate(vocabulary)}, pairs))
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tk.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(vocabulary[:2]))
    tokenizer.save(str(folder / "tokenizer.json"))
    text = "in the thin inn, 42!  then</s>"
    write_json(folder / "tokens.json", {"text": text, "ids": tokenizer.encode(text).ids})


def main(names: Sequence[str]) -> None:
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    torch.set_num_threads(1)
    unknown = set(names) - set(GOLDENS)
    if unknown:
        raise ValueError(f"names: got {sorted(unknown)}; accepted: {', '.join(GOLDENS)}")
    for name in names or GOLDENS:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        GOLDENS[name](folder)
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)
        print(f"{name:24} {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()):8}", flush=True)
    packages = ("transformers", "torch", "safetensors", "tokenizers", "numpy", "gguf")
    write_json(
        HERE / "versions.json", {"python": platform.python_version(), **{name: version(name) for name in packages}}
    )
    print(f"{'total':24} {sum(file.stat().st_size for file in HERE.rglob('*') if file.is_file()):8}")


if __name__ == "__main__":
    main(sys.argv[1:])
