"""Train small models on several devices and on one, and compare the losses. Prints the table of docs/scaling.md.

    python benchmarks/devices.py                                # the variants of VARIANTS in every setting
    python benchmarks/devices.py --variants gpt-llama --settings fsdp_8x1
    python benchmarks/devices.py --features                     # LoRA, mixed precision, saving, generation, …

Every setting runs in processes of its own, with simulated devices of the CPU. JAX's settings need JAX in the
environment, and are compared with one device of JAX; those of ``tf.distribute`` with one device of TensorFlow.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

VARIANTS = ("gpt-gpt2", "gpt-llama", "gpt-experts", "bert-masked_lm", "bert-deberta", "vit-classifier", "clip-clip")
VARIANTS += ("clip-image", "transformer-original", "transformer-t5", "seq2seq-luong", "whisper-whisper")
JAX = ("data_parallel_8", "model_parallel_2x4", "fsdp_8x1", "jax_2_processes")
TENSORFLOW = ("mirrored_2", "multi_worker_2")
FEATURES = ("lora", "bfloat16", "accumulation", "save_and_load", "generate")
ONE = {"jax": "one_jax", "tensorflow": "one_tensorflow"}
ROWS, LENGTH, STEPS, WIDE = 16, 9, 4, 4


def backend(setting: str) -> str:
    """Return the Keras backend of a setting."""
    return "tensorflow" if setting in (*TENSORFLOW, ONE["tensorflow"]) else "jax"


def losses(setting: str, variants: Sequence[str], features: Sequence[str] = ()) -> dict[str, Any]:
    """Run a setting in new processes and return its results by variant, or by feature of the first variant.

    A result is the list of losses, the generated ids, or the text of an error.
    """
    several = 2 if setting in ("jax_2_processes", "multi_worker_2") else 1
    ports = [_free_port() for _ in range(several)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--worker", setting, "--folder", folder]
        command += ["--variants", *variants, *(["--features", *features] if features else [])]
        running = []
        for process in range(several):
            env = {**os.environ, **_environment(setting, process, ports)}
            running.append(subprocess.Popen([*command, "--process", str(process), *map(str, ports)], env=env))
        codes = [one.wait(timeout=3000) for one in running]
        if any(codes):
            raise RuntimeError(f"{setting}: the processes ended with {codes}")
        return json.loads((Path(folder) / "result.json").read_text())


def _environment(setting: str, process: int, ports: Sequence[int]) -> dict[str, str]:
    own = {"KERAS_BACKEND": backend(setting), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    if setting in JAX[:3]:
        own["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    if setting == "multi_worker_2":
        workers = [f"127.0.0.1:{port}" for port in ports]
        own["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": process}})
    return own


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# In the processes.


def work(
    setting: str, variants: Sequence[str], features: Sequence[str], process: int, ports: list[int], out: Path
) -> None:
    """Compute the results of a setting and write them to result.json in the folder `out`."""
    scope = _prepare(setting, process, ports)
    found: dict[str, Any] = {}
    for name in features or variants:
        variant = variants[0] if features else name
        try:
            with scope(variant):
                if features:
                    found[name] = _feature(name, variant, setting, process, out)
                else:
                    found[name] = _fitted(_compiled(variant), variant, setting, process)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if process == 0:
        (out / "result.json").write_text(json.dumps(found))


def _prepare(setting: str, process: int, ports: list[int]) -> Callable[[str], Any]:
    """Return a context manager in which the model of a variant is made and trained."""
    if backend(setting) == "tensorflow":
        import tensorflow as tf

        if setting == ONE["tensorflow"]:
            return lambda _: nullcontext()
        if setting == "multi_worker_2":  # before anything else uses TensorFlow
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        else:
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
            strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        return lambda _: strategy.scope()
    import keras

    if setting == "jax_2_processes":
        keras.distribution.initialize(f"127.0.0.1:{ports[0]}", 2, process)
    return functools.partial(_jax_scope, setting)


@contextmanager
def _jax_scope(setting: str, variant: str) -> Iterator[None]:
    import keras

    spread = keras.distribution
    if setting == ONE["jax"]:
        yield
        return
    if setting == "data_parallel_8":
        chosen: Any = spread.DataParallel()
    else:
        from attention_zoo.training.layouts import layout_map

        mesh = {"model_parallel_2x4": (2, 4), "fsdp_8x1": (8, 1), "jax_2_processes": (2, 1)}[setting]
        layouts = layout_map(mesh, _config(variant), fsdp=mesh[1] == 1)
        chosen = spread.ModelParallel(layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False)
    with chosen.scope():
        yield


def _config(variant: str) -> Any:
    from attention_zoo.zoo.registry import family

    cls = family(variant.partition("-")[0])
    fields = {**cls.tiny()[variant.partition("-")[2]]}
    known = cls.config_class.__dataclass_fields__
    fields |= {name: WIDE for name in ("num_heads", "image_num_heads") if name in known}  # which 4 devices divide
    fields |= {name: 0.0 for name in ("dropout", "attention_dropout", "hidden_dropout") if name in known}
    return cls.config_class.from_dict(fields)


def _model(variant: str, dtype: Any = None) -> Any:
    import numpy as np

    from attention_zoo.weights.fill import assign
    from attention_zoo.zoo.registry import family

    model = family(variant.partition("-")[0])(_config(variant), dtype=dtype)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        centre = 1.0 if variable.path.endswith(("gamma", "scale")) else 0.0
        assign(variable, (centre + rng.normal(0, 0.1, variable.shape)).astype("float32"))
    return model


def _compiled(
    variant: str, dtype: Any = None, *, prepare: Callable[[Any], Any] | None = None, steps: Any = None
) -> Any:
    import keras

    model = _model(variant, dtype)
    if prepare is not None:
        prepare(model)
    optimizer = keras.optimizers.AdamW(1e-3, epsilon=1e-4, gradient_accumulation_steps=steps)
    first = model.signature.outputs[0]
    loss: Any = keras.losses.MeanSquaredError()
    if "logits" in first.name:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss if len(model.signature.outputs) == 1 else {first.name: loss})
    return model


def _data(model: Any) -> tuple[dict[str, Any], Any]:
    import numpy as np

    rng, signature = np.random.default_rng(1), model.signature
    sizes: dict[Any, int] = {**signature.defaults, **dict.fromkeys(("batch", "text_batch", "image_batch"), ROWS)}
    sizes |= dict.fromkeys(("sequence", "source", "target"), LENGTH)

    def made(spec: Any) -> Any:
        shape = [sizes.get(dim, dim) for dim in spec.dims]
        if spec.name.endswith("attention_mask"):
            return (np.arange(shape[1]) < rng.integers(3, shape[1] + 1, (shape[0], 1))).astype("int32")
        if spec.below is None:
            return rng.normal(size=shape).astype("float32")
        return rng.integers(0, spec.below, shape).astype("int32")

    x = {spec.name: made(spec) for spec in signature.inputs if spec.name != "position_ids"}
    first = signature.outputs[0]
    shape = [sizes.get(dim, dim) for dim in first.dims]
    if first.name == "logits_per_image":
        y = np.arange(ROWS)
    elif "logits" in first.name:
        y = rng.integers(0, shape[-1], shape[:-1])
    else:
        y = rng.normal(size=shape).astype("float32")
    return x, y if len(signature.outputs) == 1 else {first.name: y}


def _fitted(model: Any, variant: str, setting: str, process: int, rows: int = ROWS) -> list[float]:
    import keras

    if variant == "clip-clip" and setting in TENSORFLOW:
        raise ValueError("a contrastive loss compares all rows of a batch, and a replica has its own rows only")
    x, y = _data(model)
    if setting == "jax_2_processes":  # each has its own rows; the rows of a batch are in the order of the processes
        half = ROWS // 2
        part = slice(process * half, (process + 1) * half)
        x, y = keras.tree.map_structure(lambda array: array[part], (x, y))
        rows //= 2
    history = model.fit(x, y, batch_size=rows, epochs=STEPS, shuffle=False, verbose=0)
    return [float(loss) for loss in history.history["loss"]]


def _feature(name: str, variant: str, setting: str, process: int, out: Path) -> Any:
    import numpy as np

    import attention_zoo as az

    if name == "lora":
        rng = np.random.default_rng(2)

        def adapt(model: Any) -> None:
            from attention_zoo.weights.fill import assign

            model.enable_lora(4, targets=("query", "value"))
            for variable in (variable for variable in model.weights if "lora" in variable.path):
                assign(variable, rng.normal(0, 0.1, variable.shape).astype("float32"))

        return _fitted(_compiled(variant, prepare=adapt), variant, setting, process)
    if name == "bfloat16":
        return _fitted(_compiled(variant, "mixed_bfloat16"), variant, setting, process)
    if name == "accumulation":
        return _fitted(_compiled(variant, steps=2), variant, setting, process)
    if name == "save_and_load":
        model = _compiled(variant)
        _fitted(model, variant, setting, process)
        az.save(model, out / f"saved_{process}")
        loaded = az.load(out / f"saved_{process}")
        loaded.compile(model.optimizer.__class__(1e-3), model.loss)
        return _fitted(loaded, variant, setting, process)
    model = _model(variant)
    return model.generate(np.arange(12).reshape(2, 6), max_new_tokens=8).tolist()


def compared(result: Any, one: Any) -> float | str:
    """Return the largest difference of two results, or the text of an error."""
    for value in (one, result):
        if isinstance(value, str):
            return value
    if isinstance(one[0], list):  # generated ids
        return 0.0 if one == result else "other ids"
    return max(abs(a - b) for a, b in zip(result, one, strict=True))


def table(settings: Sequence[str], variants: Sequence[str], features: Sequence[str]) -> str:
    """Return the table of differences in Markdown."""
    columns: dict[str, dict[str, float | str]] = {}
    for kind in dict.fromkeys(map(backend, settings)):
        one = losses(ONE[kind], variants, features)
        for setting in (setting for setting in settings if backend(setting) == kind):
            result = losses(setting, variants, features)
            columns[setting] = {name: compared(result[name], one[name]) for name in one}
            print(setting, columns[setting], file=sys.stderr, flush=True)
    notes = dict.fromkeys(cell for column in columns.values() for cell in column.values() if isinstance(cell, str))
    numbers = {note: f"({number})" for number, note in enumerate(notes, 1)}
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in features or variants:
        cells = (column[name] for column in columns.values())
        shown = (numbers[cell] if isinstance(cell, str) else f"{cell:.1e}" if cell else "0" for cell in cells)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join([*lines, *(f"\n{number} {note}" for note, number in numbers.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ports", nargs="*", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--settings", nargs="+", default=(*JAX, *TENSORFLOW))
    parser.add_argument("--features", nargs="*", choices=FEATURES)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_intermixed_args()
    if given.worker:
        work(given.worker, given.variants, given.features or (), given.process, given.ports, given.folder)
        return
    features = () if given.features is None else given.features or FEATURES
    settings = [s for s in given.settings if backend(s) == "tensorflow" or importlib.util.find_spec("jax")]
    print(table(settings, given.variants[:1] if features else given.variants, features))


if __name__ == "__main__":
    main()
