"""Write the files of the peers for ``benchmarks/onnx_files.py``, in an environment of their own.

    peers/bin/python benchmarks/onnx_peers.py FOLDER       # FOLDER/bert and FOLDER/gpt are Hugging Face folders
    peers/bin/python benchmarks/onnx_peers.py FOLDER --time    # tokens per second of onnxruntime-genai, as JSON

Writes the following files:

    bert_torch.onnx              by PyTorch's TorchScript exporter, with scaled_dot_product_attention
    bert_torch_optimized.onnx    the same file after ONNX Runtime's transformers optimizer
    bert_torch_int8.onnx         the first file after ``quantize_dynamic``, per channel
    gpt_fp32, gpt_int4           folders by the model builder of onnxruntime-genai
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PROMPT, STEPS = 512, 32


def bert(folder: Path) -> None:
    """Write the three ONNX files of the encoder."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder / "bert")

    class ByName(torch.nn.Module):
        """Passes the arguments by name: the exporter passes them by position, and transformers has another order."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder / "bert", attn_implementation="sdpa").eval()

        def forward(self, ids, mask, types):
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    model = ByName().eval()
    ids = torch.ones((2, 16), dtype=torch.long)
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "sequence"} for name in (*names, "last_hidden_state")}
    file = str(folder / "bert_torch.onnx")
    torch.onnx.export(
        model,
        inputs,
        file,
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    heads, width = config.num_attention_heads, config.hidden_size
    optimized = optimizer.optimize_model(file, model_type="bert", num_heads=heads, hidden_size=width)
    optimized.save_model_to_file(str(folder / "bert_torch_optimized.onnx"))
    quantize_dynamic(file, str(folder / "bert_torch_int8.onnx"), per_channel=True, weight_type=QuantType.QInt8)


def gpt(folder: Path) -> None:
    """Write the folders of the decoder with the model builder."""
    for precision in ("fp32", "int4"):
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder / "gpt", "-e", "cpu"]
        command += ["-o", folder / f"gpt_{precision}", "-p", precision, "-c", folder / "cache"]
        subprocess.run(list(map(str, command)), check=True)


def timed(folder: Path) -> dict[str, dict[str, float]]:
    """Return tokens per second, best of five: prefill of `PROMPT` tokens, and decode after 16 and `PROMPT` tokens."""
    import onnxruntime_genai as og

    found: dict[str, dict[str, float]] = {}
    for precision in ("fp32", "int4"):
        model = og.Model(str(folder / f"gpt_{precision}"))
        best: dict[str, float] = {}
        for _ in range(5):
            for length in (16, PROMPT):
                parameters = og.GeneratorParams(model)
                parameters.set_search_options(max_length=length + STEPS + 1, do_sample=False)
                generator = og.Generator(model, parameters)
                start = time.perf_counter()
                generator.append_tokens(np.arange(5, 5 + length, dtype="int32")[None])
                generator.generate_next_token()
                prompt = time.perf_counter() - start
                steps = []
                for _ in range(STEPS - 1):
                    start = time.perf_counter()
                    generator.generate_next_token()
                    steps.append(time.perf_counter() - start)
                best[f"decode {length}"] = max(best.get(f"decode {length}", 0), 1 / float(np.median(steps)))
                if length == PROMPT:
                    best[f"prefill {length}"] = max(best.get(f"prefill {length}", 0), length / prompt)
        found[precision] = best
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if "--time" in sys.argv:
        print(json.dumps(timed(where)))
    else:
        bert(where)
        gpt(where)
