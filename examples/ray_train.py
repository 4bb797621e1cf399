"""Train a small GPT in two processes with Ray Train and JAX; one of them is killed, and the run goes on.

    pip install "ray[train]" jax
    python examples/ray_train.py

Two workers on this machine form one ``jax.distributed`` cluster and share every batch (``keras.distribution``). After
each epoch the first worker hands Ray a ``.keras`` file, which holds the weights and the state of the optimizer. In the
third epoch the second worker kills itself, without warning, as a lost machine would be. Ray starts both anew from the
last file. The losses are those of a run that nobody disturbed, which is printed beside it.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

WORKERS, EPOCHS, BATCH, LENGTH = 2, 5, 16, 64


def train(options: dict[str, Any]) -> None:
    """Train from the last checkpoint on; Ray runs this function in every worker."""
    import keras
    import numpy as np
    import ray.train

    import attention_zoo as az

    rank = ray.train.get_context().get_world_rank()
    spread = keras.distribution
    spread.set_distribution(spread.DataParallel(devices=spread.list_devices(), auto_shard_dataset=False))
    keras.utils.set_random_seed(0)  # the same initial weights in every process
    if (checkpoint := ray.train.get_checkpoint()) is None:
        first = 0
        model = az.create(
            "gpt", vocab_size=256, num_layers=2, num_heads=4, hidden_dim=64, max_length=LENGTH, dropout=0.0
        )
        model.compile(keras.optimizers.AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    else:
        with checkpoint.as_directory() as folder:
            first = int((Path(folder) / "epochs").read_text())
            model = keras.saving.load_model(Path(folder) / "model.keras")
    text = np.frombuffer(Path(options["text"]).read_bytes(), "uint8").astype("int32")
    rows = text[: len(text) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    rows = rows[: len(rows) // BATCH * BATCH].reshape(-1, WORKERS, BATCH // WORKERS, LENGTH + 1)
    mine = rows[:, rank].reshape(-1, LENGTH + 1)  # this worker's part of every batch
    for epoch in range(first, EPOCHS):
        if rank == 1 and epoch == 2 and options["killed"] and first == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        history = model.fit(mine[:, :-1], mine[:, 1:], batch_size=BATCH // WORKERS, shuffle=False, verbose=0)
        metrics = {"epoch": epoch + 1, "loss": float(history.history["loss"][0]), "started_at": first}
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.keras")
            (Path(folder) / "epochs").write_text(str(epoch + 1))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder) if rank == 0 else None)


def run(storage: str, killed: bool) -> list[dict[str, Any]]:
    """Train with Ray and return the metrics of the epochs whose checkpoints were kept."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxConfig, JaxTrainer

    result = JaxTrainer(
        train,
        train_loop_config={"text": os.path.realpath(__file__), "killed": killed},
        jax_config=JaxConfig(use_gpu=True),  # with JAX_PLATFORMS=cpu: a cluster of CPUs
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="killed" if killed else "undisturbed",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=1),
            checkpoint_config=CheckpointConfig(num_to_keep=None),
        ),
    ).fit()
    return [metrics for _, metrics in result.best_checkpoints]


def main() -> None:
    import ray

    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, runtime_env={"env_vars": environment})
    with tempfile.TemporaryDirectory() as storage:
        runs = [run(storage, killed) for killed in (True, False)]
    print("epoch  killed  undisturbed")
    for one, other in zip(*runs, strict=True):
        again = " (resumed)" if one["started_at"] else ""
        print(f"{one['epoch']:5}  {one['loss']:.5f}  {other['loss']:.5f}{again}")
    assert all(abs(one["loss"] - other["loss"]) < 1e-5 for one, other in zip(*runs, strict=True))
    assert runs[0][-1]["started_at"] > 0 == runs[1][-1]["started_at"]


if __name__ == "__main__":
    main()
