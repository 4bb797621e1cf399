"""Write the reference checkpoints: small random models, saved and computed by transformers.

    python tests/goldens/make.py [names...]      # all, or those named; needs the packages in versions.json

Every folder is one checkpoint as written by ``save_pretrained``, with ``golden.npz``: inputs and the outputs that the
reference implementation computes from them in float32, with eager attention, in eval mode. The same package versions
write the same bytes. README.md describes the names of the arrays.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version

import torch
import transformers as hf
from writers import (  # noqa: F401 (they register themselves)
    adapters,
    decoder_dialects,
    decoders,
    encoders,
    experts,
    further_encoders,
    gguf_architectures,
    gguf_files,
    images,
    pairs,
    searches,
    sentence_modules,
    speech,
    translators,
)
from writers.common import GOLDENS, HERE, write_json


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
