"""The files that are changed: exports of tiny models, and the checkpoints and tokenizers of the tests."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

GOLDENS = Path(__file__).parents[1] / "goldens"


def seeds_in(folder: Path) -> dict[str, list[Path]]:
    """Return the seeds of each kind. Exports are written to `folder` if it is empty, in a process of their own."""
    if folder.is_dir() and not list(folder.glob("*.tflite")):
        subprocess.run([sys.executable, __file__, str(folder)], check=True)
    exports = {kind: sorted(folder.glob(f"*.{kind}")) for kind in ("tflite", "onnx", "litertlm")}
    return {
        **exports,
        "metadata": [*exports["tflite"], *exports["onnx"]],
        "tokenizer": [GOLDENS / name for name in ("llama-gguf", "sentences/body", "sentence-modules/cross_encoder")],
        "template": [GOLDENS],
        "gguf": sorted((GOLDENS / "llama-gguf").glob("*.gguf"))[:3],
        "folder": [GOLDENS / name for name in ("llama", "bert-sequence", "vit")],
    }


def write(folder: Path) -> None:
    """Export tiny models of every kind of graph and precision."""
    import attention_zoo as az
    from attention_zoo import export
    from helpers import tiny

    bert, gpt, vit = tiny("bert", "backbone"), tiny("gpt", "llama"), tiny("vit", "classifier")
    export.to_tflite(bert, folder / "bert.tflite", sequence_length=8)
    export.to_tflite(bert, folder / "bert_int8.tflite", precision="int8", sequence_length=8)
    export.to_tflite(gpt, folder / "gpt.tflite", cache=True)
    export.to_tflite(gpt, folder / "gpt_int4.tflite", cache=True, precision="int4")
    export.to_tflite(vit, folder / "vit.tflite")
    export.to_onnx(bert, folder / "bert.onnx")
    export.to_onnx(gpt, folder / "gpt_int8.onnx", precision="int8")
    with contextlib.suppress(ImportError):
        export.to_litertlm(az.load(GOLDENS / "llama-gguf" / "q8_0.gguf"), folder / "gpt.litertlm")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    write(Path(sys.argv[1]))
