"""What all writers of reference checkpoints share: random weights, inputs, cases and files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parents[1]
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


def new(folder: Path, cls: Any, config: Any, attention: str = "eager") -> Any:
    """Return a model of `cls` with random weights that computes in float32 with this implementation of attention."""
    config._attn_implementation = attention
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


def reread(folder: Path, cls: Any, attn_implementation: str = "eager", **options: Any) -> None:
    """Check that transformers computes the outputs in golden.npz from the folder alone."""
    model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation=attn_implementation).eval()
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


def stored(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


SEQUENCE = ("logits",)
SPANS = ("start_logits", "end_logits")
STATES = ("last_hidden_state", "pooler_output")
LABELS = {0: "no", 1: "perhaps", 2: "yes"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


def labels(names: Mapping[int, str]) -> dict[str, Any]:
    return {"id2label": dict(names), "label2id": {label: i for i, label in names.items()}}
