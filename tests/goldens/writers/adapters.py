"""LoRA adapters as PEFT saves them, and what their merged models compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import EAGER, HERE, golden, randomise, seed_of

INPUT = torch.tensor([[5, 9, 33, 41, 7, 60], [8, 8, 21, 3, 90, 11]])


def _write(folder: Path, base: str, cls: Any, lora: dict[str, Any], **more: Any) -> None:
    """Write an adapter of the reference checkpoint `base` with random values, and the result of the adapted model."""
    import peft

    model = cls.from_pretrained(HERE / base, dtype=torch.float32, **EAGER, **more)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**lora))
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad = "lora_" in name or "modules_to_save" in name
    randomise(adapted, seed_of(folder))
    with torch.no_grad():
        result = adapted(input_ids=INPUT)
    adapted.peft_config["default"].base_model_name_or_path = f"../../{base}"
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    np.savez(folder / "golden.npz", input_ids=INPUT.numpy(), result=result[0].numpy())


@golden
def adapters(folder: Path) -> None:
    """Ranks and scales by layer, Conv1D, a classifier of its own, and the tables of tokens."""
    decoder = {"task_type": "CAUSAL_LM", "r": 2}
    _write(
        folder / "llama",
        "llama",
        hf.LlamaForCausalLM,
        {
            **decoder,
            "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj", "o_proj"],
            "lora_alpha": 3,
            "rank_pattern": {"up_proj": 4, r"layers\.0\.self_attn\.v_proj": 1},
            "alpha_pattern": {"model.layers.1.self_attn.q_proj": 7},
        },
    )
    _write(
        folder / "gpt2",
        "gpt2",
        hf.GPT2LMHeadModel,
        {**decoder, "target_modules": ["c_attn", "c_proj", "c_fc"], "lora_alpha": 5, "use_rslora": True},
    )
    _write(
        folder / "classifier",
        "llama",
        hf.LlamaForSequenceClassification,
        {"task_type": "SEQ_CLS", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]},
        num_labels=3,
        pad_token_id=0,
    )
    _write(
        folder / "bert",
        "bert",
        hf.BertForTokenClassification,
        {"task_type": "TOKEN_CLS", "r": 3, "lora_alpha": 4, "target_modules": ["word_embeddings", "query", "dense"]},
        num_labels=5,
    )
