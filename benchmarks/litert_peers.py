"""Write the files of the peers for ``benchmarks/litert.py``, in an environment of their own.

    peers/bin/python benchmarks/litert_peers.py FOLDER    # FOLDER/{minilm,dinov2,smollm2}_hf are Hugging Face folders
    peers/bin/python benchmarks/litert_peers.py --llama FILE THREADS    # llama.cpp's own times, requested on stdin

Writes the following files, unless they exist:

    torch_{minilm,dinov2}_{fp32,int8}.tflite      transformers' model converted by litert-torch; int8: then quantized
                                                  with the dynamic int8 recipe of ai-edge-quantizer
    torch_smollm2_{fp32,int8,int4}.litertlm       by litert-torch's exporter for decoders, with its defaults but for the
                                                  sizes and the quantization
    smollm2_{Q8_0,Q4_0}.gguf                      from smollm2_Q4_1.gguf

llama.cpp is the build for AVX2 in xllamacpp; see peers.sh.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

LENGTH, SIDE = 128, 224  # inputs of the encoders: tokens, and pixels of an image's side
SLOTS, PREFILLS, STEPS = 1024, [32, 128], 24
# int4 has blocks of 32, as in this package. With one scale per row (dynamic_wi4_afp32), SmolLM2 generates nonsense.
RECIPES = {"fp32": "none", "int8": "dynamic_wi8_afp32", "int4": "dynamic_wi4b32_afp32"}


def encoder(name: str, folder: Path) -> None:
    """Write the float32 and int8 files of an encoder, with the inputs and outputs of this package's file."""
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe
    from transformers import AutoModel

    body = AutoModel.from_pretrained(folder / f"{name}_hf").eval()

    class Sentence(torch.nn.Module):
        """The mean of the hidden states without padding, normalized to length 1, as modules.json specifies."""

        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, **inputs: Any) -> dict[str, Any]:
            mask = inputs["attention_mask"][..., None].to(torch.float32)
            states = self.body(**inputs).last_hidden_state * mask
            mean = states.sum(1) / mask.sum(1).clamp(min=1e-9)
            return {"sentence_embedding": torch.nn.functional.normalize(mean, dim=-1)}

    class Image(torch.nn.Module):
        """The model for images with channels last, the usual layout of images from a camera."""

        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, pixel_values: Any) -> dict[str, Any]:
            found = self.body(pixel_values.permute(0, 3, 1, 2))
            return {"last_hidden_state": found.last_hidden_state, "pooler_output": found.pooler_output}

    if name == "minilm":
        names = ("input_ids", "attention_mask", "token_type_ids")
        # Each input needs a tensor of its own: the same tensor given twice would become one input.
        model, inputs = Sentence(), {name: torch.ones((1, LENGTH), dtype=torch.int32) for name in names}
    else:
        at_size(body)
        model, inputs = Image(), {"pixel_values": torch.zeros((1, SIDE, SIDE, 3))}
    file = folder / f"torch_{name}_fp32.tflite"
    litert_torch.convert(model.eval(), sample_kwargs=inputs).export(str(file))
    smaller = quantizer.Quantizer(str(file))
    smaller.load_quantization_recipe(getattr(recipe, RECIPES["int8"])())
    smaller.quantize().export_model(str(folder / f"torch_{name}_int8.tflite"), overwrite=True)


def at_size(model: Any) -> None:
    """Interpolate the position embeddings to images of `SIDE` pixels once; the file would do so in every call."""
    import torch

    with torch.no_grad():
        patches = (SIDE // model.config.patch_size) ** 2
        positions = model.embeddings.interpolate_pos_encoding(
            torch.zeros((1, 1 + patches, model.config.hidden_size)), SIDE, SIDE
        )
    model.embeddings.interpolate_pos_encoding = lambda *_: positions


def decoder(folder: Path, precision: str) -> None:
    """Write the LiteRT-LM bundle of SmolLM2 in one precision."""
    from litert_torch.generative.export_hf import export

    made = folder / f"torch_smollm2_{precision}"
    export.export(
        model=str(folder / "smollm2_hf"),
        output_dir=str(made),
        prefill_lengths=PREFILLS,
        cache_length=SLOTS,
        quantization_recipe=RECIPES[precision],
    )
    next(made.glob("*.litertlm")).rename(made.with_suffix(".litertlm"))
    shutil.rmtree(made)


def requantized(source: Path, kind: str, target: Path) -> None:
    """Write `source` to `target` with every matrix quantized to `kind`, and vectors in float32."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants

    reader = GGUFReader(source)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        wanted = GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(tensor.name, quants.quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(file: str, threads: int) -> None:
    """For every prompt length on stdin, print as JSON the seconds of the prompt and the mean of the decode steps."""
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path, asked.n_ctx, asked.n_parallel, asked.verbosity = file, SLOTS, 1, 0
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(asked)
    for line in sys.stdin:
        request = {"prompt": [260] * int(line), "n_predict": STEPS, "temperature": 0}
        answer = server.handle_completions({**request, "cache_prompt": False, "ignore_eos": True})
        took: dict[str, float] = answer["timings"]
        print(json.dumps([took["prompt_ms"] / 1e3, took["predicted_per_token_ms"] / 1e3]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--llama":
        llama(sys.argv[2], int(sys.argv[3]))
        sys.exit()
    where = Path(sys.argv[1])
    for one in ("minilm", "dinov2"):
        if not (where / f"torch_{one}_int8.tflite").is_file():
            encoder(one, where)
    for bits in RECIPES:
        if not (where / f"torch_smollm2_{bits}.litertlm").is_file():
            decoder(where, bits)
    for quant in ("Q8_0", "Q4_0"):
        if not (where / f"smollm2_{quant}.gguf").is_file():
            requantized(where / "smollm2_Q4_1.gguf", quant, where / f"smollm2_{quant}.gguf")
