"""Metadata of MediaPipe tasks in TFLite files: read here by its schema and, if available, by MediaPipe itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table

import attention_zoo as az
from attention_zoo import export
from attention_zoo.cli import main
from attention_zoo.export.tflite.tasks import attached, set_task, task_of
from attention_zoo.runtime.tflite.flatbuffer import packed, unpacked
from attention_zoo.text.tokenizer import Tokenizer
from helpers import ROOT, shared, tiny

MEDIAPIPE = os.environ.get("MEDIAPIPE_PYTHON")  # the Python of an environment with mediapipe
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sky", "is", "blue", "rain", "##ing", "a", "."]
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype("uint8")
TEXT = "The sky is RAINING blue."


def vit(mean: Any = 0.5, std: Any = 0.25, **overrides: Any) -> Any:
    model = tiny("vit", "classifier", image_size=30, **overrides)
    model.preprocessor = {"size": {"height": 30, "width": 30}, "image_mean": mean, "image_std": std}
    model.huggingface = {"id2label": {str(i): f"kind {i}" for i in (6, 5, 4, 3, 2, 1, 0)}}
    return model


def bert(variant: str, folder: Path, lowercase: bool = True) -> Any:
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    config = {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = tiny("bert", variant)
    model.tokenizer = Tokenizer.load(folder)
    model.huggingface = {"id2label": {str(i): f"kind {i}" for i in range(5)}}
    return model


# ---- a reader of FlatBuffers, with fields by their number in the schema --------------------------------------------


class Read:
    """One table of a FlatBuffer. Its methods return the field with the given number."""

    def __init__(self, data: bytes, place: int) -> None:
        self.table = Table(bytearray(data), place)

    def _at(self, number: int) -> int:
        return self.table.Offset(4 + 2 * number)

    def text(self, number: int) -> str:
        at = self._at(number)
        return self.table.String(at + self.table.Pos).decode() if at else ""

    def byte(self, number: int) -> int:
        at = self._at(number)
        return self.table.Get(number_types.Uint8Flags, at + self.table.Pos) if at else 0

    def inner(self, number: int) -> Read:
        return Read(bytes(self.table.Bytes), self.table.Indirect(self._at(number) + self.table.Pos))

    def list(self, number: int) -> list[Read]:
        at = self._at(number)
        if not at:
            return []
        first = self.table.Vector(at)
        places = [self.table.Indirect(first + 4 * i) for i in range(self.table.VectorLen(at))]
        return [Read(bytes(self.table.Bytes), place) for place in places]

    def floats(self, number: int) -> list[float]:
        return self.table.GetVectorAsNumpy(number_types.Float32Flags, self._at(number)).tolist()


def metadata(content: bytes) -> Read | None:
    model = unpacked(content)
    for entry in model.metadata:
        if entry.name == b"TFLITE_METADATA":
            data = bytes(model.buffers[entry.buffer].data)
            assert data[4:8] == b"M001"
            return Read(data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
    return None


def test_an_image_classifier(tmp_path: Path) -> None:
    model = vit([0.5, 0.25, 0.125], [0.5, 0.25, 0.2])
    result = export.to_tflite(model, tmp_path / "m.tflite")
    content = result.path.read_bytes()
    found = metadata(content)
    assert found is not None and result.bytes == len(content)
    assert found.text(0) == "ImageClassifier" and found.text(2).startswith("attention-zoo ")
    (graph,) = found.list(3)
    (pixels,), (logits,) = graph.list(2), graph.list(3)
    assert (pixels.text(0), logits.text(0)) == ("pixel_values", "logits")
    assert (pixels.inner(3).byte(0), pixels.inner(3).inner(1).byte(0), logits.inner(3).byte(0)) == (2, 1, 1)
    (unit,) = pixels.list(4)
    assert unit.byte(0) == 1
    np.testing.assert_allclose(unit.inner(1).floats(0), np.multiply(255, [0.5, 0.25, 0.125]))
    np.testing.assert_allclose(unit.inner(1).floats(1), np.multiply(255, [0.5, 0.25, 0.2]))
    (file,) = logits.list(6)
    assert (file.text(0), file.byte(2)) == ("labels.txt", 2)
    with zipfile.ZipFile(result.path) as archive:
        assert archive.read("labels.txt").decode().split("\n") == [*(f"kind {i}" for i in range(7)), ""]


def test_normalisation_is_the_processor_s(tmp_path: Path) -> None:
    """Check that (pixel - mean) / std with the stored values equals the output of ``ImageProcessor``."""
    model = vit([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    from attention_zoo.layers.images import ImageProcessor

    task = task_of(model)
    assert task is not None and task.normalization is not None
    expected = np.asarray(ImageProcessor.from_huggingface(model.preprocessor)(PIXELS[None]))
    mean, std = np.array(task.normalization)
    np.testing.assert_allclose((PIXELS[None] - mean) / std, expected, atol=1e-5)
    file = export.to_tflite(model, tmp_path / "m.tflite", image_dtype="uint8").path
    found = metadata(file.read_bytes())
    assert found is not None and found.list(3)[0].list(2)[0].list(4) == [], "pixels of 8 bits are normalised inside"


@pytest.mark.parametrize(
    ("variant", "name", "output"),
    [("sequence_classification", "TextClassifier", "logits"), ("sentence_embedding", "TextEmbedder", None)],
)
def test_texts(variant: str, name: str, output: str | None, tmp_path: Path) -> None:
    """Check that the inputs have the names that MediaPipe expects, in the order of the file."""
    model = bert(variant, tmp_path)
    result = export.to_tflite(model, tmp_path / "m.tflite", sequence_length=16)
    content = result.path.read_bytes()
    found = metadata(content)
    assert found is not None and found.text(0) == name
    (graph,) = found.list(3)
    own = unpacked(content)
    (signature,) = own.signatureDefs
    names = {entry.tensorIndex: entry.name.decode() for entry in signature.inputs}
    order = [names[index] for index in own.subgraphs[0].inputs]
    known = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "segment_ids"}
    assert [tensor.text(0) for tensor in graph.list(2)] == [known[name] for name in order]
    (unit,) = graph.list(5)
    (file,) = unit.inner(1).list(0)
    assert (unit.byte(0), file.text(0), file.byte(2)) == (4, "vocab.txt", 5)
    files = attached(result.path)
    assert files["vocab.txt"].split() == WORDS
    assert ("labels.txt" in files) == (output is not None)


@pytest.mark.slow
def test_files_without_a_task(files: Any, tmp_path: Path) -> None:
    texts = bert("sequence_classification", tmp_path)
    rows = export.to_tflite(vit(), tmp_path / "rows.tflite", batch_size=2)
    longer = export.to_tflite(texts, tmp_path / "longer.tflite", sequence_length="dynamic")
    for result in (rows, longer):
        assert metadata(result.path.read_bytes()) is None and not attached(result.path), "no row of one size"
    found = {(one.rule, one.layer) for one in longer.suitability.findings if one.rule == "dynamic shape"}
    assert found == {("dynamic shape", name) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for which in (("bert", "backbone", "tflite"), ("gpt", "llama", "tflite", True), ("vit", "features", "tflite")):
        file = files(*which)[1].path
        assert metadata(file.read_bytes()) is None and not attached(file)
    assert task_of(bert("sequence_classification", tmp_path, lowercase=False)) is None
    assert task_of(shared("bert", "distilbert_classifier")) is None
    unnamed = task_of(shared("vit", "classifier"))
    assert unnamed is not None and unnamed.normalization is None and not unnamed.files
    wrong = vit()
    wrong.huggingface = {"id2label": {"0": "a", "1": "b"}}
    task = task_of(wrong)
    assert task is not None and not task.labels, "names of other classes than the model's"


@pytest.mark.slow
def test_a_file_with_an_archive_is_as_good_as_another(tmp_path: Path) -> None:
    """Check that such a file passes ``verify`` and is reproducible, and that ``verify`` detects a changed label."""
    model = vit()
    file = export.to_tflite(model, tmp_path / "m.tflite").path
    assert export.verify(model, file).passed
    again = export.to_tflite(model, tmp_path / "again.tflite").path
    assert again.read_bytes() == file.read_bytes()
    small = export.to_tflite(model, tmp_path / "small.tflite", precision="int8", least_cosine=0).path
    assert attached(small) == attached(file) and metadata(small.read_bytes()) is not None
    content = file.read_bytes()
    assert content.count(b"kind 3") == 1
    file.write_bytes(content.replace(b"kind 3", b"kind 9"))
    report = export.verify(model, file)
    assert not report.passed and any(not check.passed and check.name == "bytes" for check in report.checks)


def test_other_metadata_stay(files: Any) -> None:
    """Check that ``set_task`` keeps the metadata of the converter and of attention_zoo."""
    task = task_of(vit())
    assert task is not None
    model = unpacked(files("vit", "classifier", "tflite")[1].path.read_bytes())
    model.metadata = [entry for entry in model.metadata if entry.name != b"TFLITE_METADATA"]
    before = [(entry.name, bytes(model.buffers[entry.buffer].data)) for entry in model.metadata]
    set_task(model, task)
    after = unpacked(packed(model))
    found = [(entry.name, bytes(after.buffers[entry.buffer].data)) for entry in after.metadata]
    assert found[:-1] == before and found[-1][0] == b"TFLITE_METADATA"


def test_pixels_of_8_bits_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    az.save(vit([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]), tmp_path / "vit")
    for name, code in (("m.tflite", 0), ("m.litertlm", 2)):
        command = ["attention-zoo", "export", str(tmp_path / "vit"), str(tmp_path / name), "--image-dtype", "uint8"]
        with mock.patch.object(sys, "argv", command), pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    assert "image_dtype: got 'uint8' for litertlm" in capsys.readouterr().err
    pixels = export.describe(tmp_path / "m.tflite")["graphs"]["serving_default"]["inputs"][0]
    assert (pixels["dtype"], pixels["shape"]) == ("uint8", [1, 30, 30, 3])
    assert attached(tmp_path / "m.tflite"), "the names of the classes were saved with the model"


@pytest.mark.parametrize("page", ["android.md", "ios.md"])
def test_pages_for_phones_name_what_is_there(page: str) -> None:
    """Check that tensor names in the pages are those of the families' signatures, and that linked pages exist."""
    text = (ROOT / "docs" / page).read_text()
    models = [shared("bert", variant) for variant in ("backbone", "sequence_classification", "sentence_embedding")]
    signatures = [model.signature for model in (*models, shared("vit", "classifier"))]
    known = {spec.name for signature in signatures for spec in (*signature.inputs, *signature.outputs)}
    said = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text)) | set(re.findall(r'"([a-z]+(?:_[a-z]+)+)"', text))
    assert len(said & known) >= 4 and said - known <= {"serving_default", "preprocessor_config"}
    assert all((ROOT / "docs" / link).is_file() for link in re.findall(r"\]\(([a-z_]+\.md)\)", text))


RUN = """
import json, sys, numpy as np, mediapipe as mp
from mediapipe.tasks import python
from mediapipe.tasks.python import text, vision
kind, file, given = sys.argv[1:]
base = python.BaseOptions(model_asset_path=file)
if kind == "image":
    task = vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=base))
    found = task.classify(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.load(given)))
elif kind == "class":
    task = text.TextClassifier.create_from_options(text.TextClassifierOptions(base_options=base))
    found = task.classify(given)
else:
    task = text.TextEmbedder.create_from_options(text.TextEmbedderOptions(base_options=base))
    found = task.embed(given)
if kind == "embedding":
    print(json.dumps([float(x) for x in found.embeddings[0].embedding]))
else:
    print(json.dumps({x.category_name: float(x.score) for x in found.classifications[0].categories}))
"""


@pytest.mark.skipif(not MEDIAPIPE, reason="MEDIAPIPE_PYTHON names no Python that has mediapipe")
@pytest.mark.parametrize("kind", ["pixels", "integers", "images", "class", "embedding"])
def test_mediapipe_opens_them(kind: str, tmp_path: Path) -> None:
    """Compare the results of MediaPipe with those of Keras."""
    file, pixels = tmp_path / "m.tflite", tmp_path / "pixels.npy"
    np.save(pixels, PIXELS)
    labels = [f"kind {i}" for i in range(7)]
    if kind == "pixels":
        model = vit()
        export.to_tflite(model, file)
        expected = model(((PIXELS[None] / 255 - 0.5) / 0.25).astype("float32"))
    elif kind == "integers":
        model = vit([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
        export.to_tflite(model, file, image_dtype="uint8")
        expected = model(((PIXELS[None] / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]).astype("float32"))
    elif kind == "images":
        model = vit(preprocessing={"size": {"height": 30, "width": 30}, "image_mean": [0.1, 0.2, 0.3]})
        export.to_tflite(model, file)
        expected = model(PIXELS[None].astype("float32"))
    else:
        model = bert({"class": "sequence_classification"}.get(kind, "sentence_embedding"), tmp_path)
        export.to_tflite(model, file, sequence_length=16)
        found = model(dict(model.tokenizer([TEXT])))
        expected, labels = next(iter(found.values())) if isinstance(found, dict) else found, labels[:5]
    given = ["image", file, pixels] if kind in ("pixels", "integers", "images") else [kind, file, TEXT]
    command = [str(MEDIAPIPE), "-c", RUN, *map(str, given)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    actual = said if kind == "embedding" else [said[label] for label in labels]
    np.testing.assert_allclose(actual, np.asarray(expected)[0], atol=1e-5)


CARD = {"license": "Apache-2.0", "author": "Ada, Grace", "description": "Stars: 1 … 5.", "name": "Reviews"}


def model_metadata(file: Path) -> list[Read]:
    """Return every ``ModelMetadata`` in a TFLite file."""
    model = unpacked(file.read_bytes())
    found = [bytes(model.buffers[entry.buffer].data) for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    assert all(data[4:8] == b"M001" for data in found)
    return [Read(data, int.from_bytes(data[:4], "little")) for data in found]


@pytest.mark.slow
def test_cards_of_files_with_a_task_and_without(tmp_path: Path) -> None:
    """Check that an image classifier has the card and its task metadata, and a decoder, which has no task, the card."""
    export.to_tflite(vit(), tmp_path / "vit.tflite", card=CARD)
    export.to_tflite(
        shared("gpt", "llama"), tmp_path / "gpt.tflite", prefill=4, max_length=8, card={**CARD, "version": "2.1"}
    )
    for name, graphs in (("vit", 1), ("gpt", 0)):
        (read,) = model_metadata(tmp_path / f"{name}.tflite")
        said = [read.text(number) for number in (0, 1, 4, 5)]
        assert said == [CARD[field] for field in ("name", "description", "author", "license")]
        assert len(read.list(3)) == graphs and read.text(7) == "1.0.0"
        assert read.text(2) == ("2.1" if name == "gpt" else f"attention-zoo {az.__version__}")
    assert export.verify(shared("gpt", "llama"), tmp_path / "gpt.tflite").passed
    export.to_tflite(shared("bert", "backbone"), tmp_path / "none.tflite", sequence_length=4)
    assert model_metadata(tmp_path / "none.tflite") == [] and export.describe(tmp_path / "none.tflite")["card"] == {}
