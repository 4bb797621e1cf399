"""Write what llama.cpp computes from files of ``to_gguf``, and how it splits a text with each of its pre-tokenizers.

    python write.py files FOLDER      # with attention_zoo and gguf: writes the .gguf files
    python write.py results FOLDER    # with llama-cpp-python: writes llama_cpp.npz and splits.json beside this file

No test runs it. The files here were written with llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
IDS = list(range(3, 10))
TEXTS = (
    "Hello wORLDs, it's I'M we'LL don't 1 12 1234 12345678 a1b22 x==y; $5.00 (=> ~`^|<>) \n\n  \n end\n\t\ttab  \r\n   "
    "4    '' \"quoted\" CamelCaseHTTPServer /* c */ //x #!/bin a   \n  <sentinel:12> 3,141,592 ++i -- ___ v1.2\n",
    "Ünïcode étÉ Привет мИр 你好，世界。 こんにちは カタカナ 한국어 हिन्दी "
    "ไทย عربي، ۔ ½ ① 🙂🚀 don’t … ！ e\u0301a \u3000. x\n",
)


def write_files(folder: Path) -> None:
    import gguf
    import tokenizers as tk

    import attention_zoo as az
    from attention_zoo.text.splits import SPLITS

    sys.path += [str(HERE.parents[1]), str(HERE.parents[1] / "zoo")]
    from test_to_gguf import CHANGED, MODELS

    for name, path in MODELS.items():
        az.to_gguf(az.load(path, **CHANGED.get(name, {})), folder / f"{name}-f32.gguf")
    tokenizer = tk.Tokenizer(tk.models.BPE())
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tk.trainers.BpeTrainer(
        vocab_size=560, initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    raw = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(raw["vocab"], key=raw["vocab"].get)
    merges = [" ".join(pair) for pair in raw["merges"]]
    (folder / "splits.json").write_text(json.dumps({"texts": TEXTS, "tokens": tokens, "merges": merges}))
    for name in SPLITS:
        writer = gguf.GGUFWriter(folder / f"vocabulary-{name}.gguf", "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
        writer.add_token_merges(merges)
        for key in ("bos", "eos"):
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", 0)
        writer.add_context_length(8)
        writer.add_embedding_length(8)
        writer.add_block_count(1)
        writer.add_feed_forward_length(8)
        writer.add_head_count(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_results(folder: Path) -> None:
    import llama_cpp as ll

    ll.llama_backend_init()
    quiet = ll.llama_log_callback(lambda *_: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    found = {file.stem: computed(ll, file) for file in sorted(folder.glob("*-f32.gguf"))}
    np.savez_compressed(HERE / "llama_cpp.npz", **dict[str, Any](found))
    stored = json.loads((folder / "splits.json").read_text())
    files = sorted(folder.glob("vocabulary-*.gguf"))
    cuts: dict[str, list[str]] = {}
    for file in files:
        ids = json.dumps([tokenized(ll, file, text) for text in stored["texts"]])
        cuts.setdefault(ids, []).append(file.stem.partition("-")[2])
    stored["cuts"] = [{"names": names, "ids": json.loads(ids)} for ids, names in cuts.items()]
    (HERE / "splits.json").write_text(json.dumps(stored) + "\n")


def loaded(ll: Any, file: Path, *, vocabulary: bool) -> Any:
    options = ll.llama_model_default_params()
    options.use_mmap, options.vocab_only = False, vocabulary
    model = ll.llama_model_load_from_file(str(file).encode(), options)
    assert model, file
    return model


def tokenized(ll: Any, file: Path, text: str) -> list[int]:
    model = loaded(ll, file, vocabulary=True)
    room, data = (ll.llama_token * 4096)(), text.encode()
    count = ll.llama_tokenize(ll.llama_model_get_vocab(model), data, len(data), room, 4096, False, False)
    ll.llama_model_free(model)
    return [int(number) for number in room[:count]]


def computed(ll: Any, file: Path) -> np.ndarray:
    """Return the logits of the ids, the states of an encoder, or the pooled embedding."""
    model = loaded(ll, file, vocabulary=False)

    def entry(key: str) -> str:
        room = ctypes.create_string_buffer(64)
        return room.value.decode() if ll.llama_model_meta_val_str(model, key.encode(), room, 64) > 0 else ""

    options = ll.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 64
    options.n_threads = options.n_threads_batch = 1
    options.flash_attn_type = options.type_k = options.type_v = 0  # float32
    bert = entry("general.architecture") in ("bert", "nomic-bert")
    pooled = entry(f"{entry('general.architecture')}.pooling_type")
    options.embeddings = bert or bool(pooled)
    if bert and not pooled:
        options.pooling_type = 0
    context = ll.llama_init_from_model(model, options)

    def batch(ids: list[int]) -> Any:
        made = ll.llama_batch_init(64, 0, 1)
        made.n_tokens = len(ids)
        for i, number in enumerate(ids):
            made.token[i], made.pos[i], made.n_seq_id[i], made.seq_id[i][0], made.logits[i] = number, i, 1, 0, 1
        return made

    ids = IDS
    if ll.llama_model_has_encoder(model) and ll.llama_model_has_decoder(model):
        assert ll.llama_encode(context, batch(ids)) == 0
        ids = ids[:3]
    assert (ll.llama_encode if bert else ll.llama_decode)(context, batch(ids)) == 0
    width, rows = ll.llama_model_n_embd(model), range(len(ids))
    words = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    if pooled:
        return np.ctypeslib.as_array(ll.llama_get_embeddings_seq(context, 0), (width,)).copy()
    read, size = (ll.llama_get_embeddings_ith, width) if bert else (ll.llama_get_logits_ith, words)
    return np.stack([np.ctypeslib.as_array(read(context, i), (size,)).copy() for i in rows])


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    {"files": write_files, "results": write_results}[sys.argv[1]](target)
