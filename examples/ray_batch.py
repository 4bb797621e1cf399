"""Score ten thousand rows of text with an exported file and Ray Data, in two processes.

    pip install "ray[data]" onnxruntime
    python examples/ray_batch.py [rows]

Each actor of Ray Data opens the ONNX file once and runs batches; neither TensorFlow nor Keras is imported there. For a
million rows, or for more machines, only ``ray.init`` and the source of the rows change: Ray streams blocks of rows
through the actors, so the memory does not grow with the number of rows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WORKERS, LENGTH, BATCH = 2, 32, 256


class Scorer:
    """Runs the file on batches of rows; Ray creates one in every actor."""

    def __init__(self, path: str) -> None:
        from attention_zoo import export

        self.runner = export.load(path)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        ids, lengths = batch["input_ids"], batch["length"]
        mask = (np.arange(LENGTH) < lengths[:, None]).astype("int32")
        logits = self.runner.run({"input_ids": ids, "attention_mask": mask})["logits"]
        return {"row": batch["row"], "label": logits.argmax(-1), "keras": np.array(["keras" in sys.modules] * len(ids))}


def rows(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return random token ids for row numbers; a real job reads Parquet files here (``ray.data.read_parquet``)."""
    number = batch["id"]
    made = [np.random.default_rng(int(one)).integers(0, 1000, LENGTH) for one in number]
    return {
        "row": number,
        "input_ids": np.stack(made).astype("int32"),
        "length": (5 + number % (LENGTH - 4)).astype("int32"),
    }


def main() -> None:
    import ray

    import attention_zoo as az
    from attention_zoo import export

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    model = az.create("bert", vocab_size=1000, num_layers=2, num_heads=4, hidden_dim=64, max_length=LENGTH,
                      head="sequence_classification", num_classes=5)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bert.onnx")
        export.to_onnx(model, path)
        ray.init(num_cpus=WORKERS + 1, include_dashboard=False)
        started = time.perf_counter()
        source = ray.data.range(count).map_batches(rows, batch_size=BATCH)
        compute = ray.data.ActorPoolStrategy(size=WORKERS)
        scored = source.map_batches(Scorer, fn_constructor_args=(path,), batch_size=BATCH, compute=compute)
        table = scored.to_pandas().sort_values("row")
        seconds = time.perf_counter() - started
    assert list(table["row"]) == list(range(count)) and not table["keras"].any()
    sample = rows({"id": np.arange(64)})
    mask = (np.arange(LENGTH) < sample["length"][:, None]).astype("int32")
    expected = model.predict({"input_ids": sample["input_ids"], "attention_mask": mask}, verbose=0).argmax(-1)
    assert (table["label"].to_numpy()[:64] == expected).all()
    print(f"{count} rows in {seconds:.1f} s, start of the actors included; labels of Keras: 64 of 64")


if __name__ == "__main__":
    main()
