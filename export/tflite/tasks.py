"""The metadata that MediaPipe tasks read in a TFLite file, and an appended ZIP archive of labels and vocabulary.

The metadata, which includes the model card, is a FlatBuffer in a buffer called TFLITE_METADATA, with the schema that
MediaPipe ships (``mediapipe/tasks/metadata/metadata_schema.fbs``). It is written field by field here, since the three
tasks need only a dozen of the schema's tables. LiteRT does not read beyond its own FlatBuffer and ignores the archive.

- An image classifier: the normalization of pixels, and the names of the classes.
- A text classifier or embedder with a WordPiece vocabulary: the role of each input, and the vocabulary. MediaPipe
  converts all text to lower case, so a cased vocabulary is left out.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.tflite.flatbuffer import shape_of
from ..frontend.any_keras.model import Foreign

BUFFER = b"TFLITE_METADATA"
IDENTIFIER, PARSER = b"M001", "1.0.0"
CARD_FIELDS = {"name": 0, "description": 1, "version": 2, "author": 4, "license": 5}  # of ModelMetadata
LABELS, VOCABULARY = "labels.txt", "vocab.txt"
# Values of the schema's enumerations and unions.
AXIS_LABELS, VOCABULARY_FILE = 2, 5
RGB = 1
FEATURE, IMAGE = 1, 2
NORMALIZATION, BERT_TOKENIZER = 1, 4
BERT_INPUTS = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "segment_ids"}


@dataclass(frozen=True)
class Task:
    """The task of a file, as MediaPipe describes it.

    Attributes:
        name, description: of the model.
        normalization: mean and standard deviation of pixels from 0 to 255, one value per channel. MediaPipe rejects a
            file with different values per channel; such a model must include its preprocessing.
        labels: names of the classes.
        vocabulary: tokens of a WordPiece tokenizer, in the order of their ids.
        inputs: MediaPipe's names of the text inputs, by their names in the file.
    """

    name: str
    description: str
    normalization: tuple[list[float], list[float]] | None = None
    labels: Sequence[str] = ()
    vocabulary: Sequence[str] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        lines = {LABELS: self.labels, VOCABULARY: self.vocabulary}
        return {name: "".join(f"{line}\n" for line in found) for name, found in lines.items() if found}


def task_of(model: Any) -> Task | None:
    """Return the task of a model, or None for a third-party model and for one that MediaPipe has no task for."""
    if isinstance(model, Foreign):
        return None
    config = model.config.to_dict()
    head = config.get("head")
    if head == "image_classification" and config.get("num_channels", 3) == 3:
        said = "The most likely classes of an image, as logits."
        return Task("ImageClassifier", said, _normalization(model, config), _labels(model, config))
    vocabulary = _vocabulary(model)
    if vocabulary and head in ("sequence_classification", "sentence_embedding"):
        inputs = {spec.name: BERT_INPUTS[spec.name] for spec in model.signature.inputs if spec.name in BERT_INPUTS}
        # Tasks cannot prepend a prompt, mask it in the pooling, or choose between logits and scores.
        prompted = model.tokenizer.default_prompt_name is not None or not config.get("pool_prompt", True)
        few = len(inputs) < len(BERT_INPUTS)  # as of DistilBERT, which no task supports
        if few or prompted or config.get("score_activation") not in (None, "linear"):
            return None
        if head == "sentence_embedding":
            return Task("TextEmbedder", "The embedding of a text.", vocabulary=vocabulary, inputs=inputs)
        said = "The most likely classes of a text, as logits."
        return Task("TextClassifier", said, labels=_labels(model, config), vocabulary=vocabulary, inputs=inputs)
    return None


def set_task(converted: Any, task: Task | None, card: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give a ``ModelT`` the card and, if it has a single signature for one row of fixed size, the metadata of its task.

    Returns:
        The texts that the metadata refers to, by file name; see ``attach``.
    """
    from ai_edge_litert import schema_py_generated as schema

    sides = _sides(converted)
    task = None if sides is None else task
    if task is None and not card:
        return {}
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(_written(task, card or {}, *(sides or ())), "uint8")
    entry.name, entry.buffer = BUFFER, len(converted.buffers)
    converted.buffers.append(buffer)
    converted.metadata = [*(converted.metadata or []), entry]
    return {} if task is None else dict(task.files)


def _sides(converted: Any) -> list[list[str]] | None:
    """Return the names of inputs and outputs in the order of the graph, which the metadata follows; None for a file
    that no task can run."""
    if len(converted.signatureDefs) > 1:
        return None
    (signature,) = converted.signatureDefs
    graph = converted.subgraphs[signature.subgraphIndex]
    shapes = [shape_of(graph.tensors[entry.tensorIndex]) for entry in signature.inputs]
    if any(shape[0] != 1 or min(shape) < 1 for shape in shapes):
        return None
    return [
        [next(entry.name.decode() for entry in entries if entry.tensorIndex == index) for index in places]
        for entries, places in ((signature.inputs, graph.inputs), (signature.outputs, graph.outputs))
    ]


def attach(file: Path, texts: Mapping[str, str]) -> None:
    """Append texts to a file as a ZIP archive. The same texts give the same bytes."""
    if texts:
        with zipfile.ZipFile(file, "a") as archive:
            for name, text in texts.items():
                archive.writestr(zipfile.ZipInfo(name), text)  # dated 1980, not compressed


def attached(file: Path) -> dict[str, str]:
    """Return the texts that ``attach`` appended to a file."""
    if not zipfile.is_zipfile(file):
        return {}
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def _normalization(model: Any, config: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation in (pixel - mean) / std for pixels from 0 to 255; None if the file takes uint8
    pixels, or if the preprocessing is not known."""
    from ...layers.images import ImageProcessor

    if model.signature.inputs[0].dtype == "uint8":
        return None  # the file normalizes them itself
    if config.get("preprocessing") is not None:
        return [0.0] * 3, [1.0] * 3  # likewise, from floats
    if not model.preprocessor:
        return None
    own = ImageProcessor.from_huggingface(model.preprocessor)
    factor = own.rescale_factor if own.do_rescale else 1.0
    mean, std = (own.image_mean, own.image_std) if own.do_normalize else (0.0, 1.0)
    scaled = [[float(x) / factor for x in np.broadcast_to(values, 3)] for values in (mean, std)]
    return scaled[0], scaled[1]


def _labels(model: Any, config: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes, if there is one for every class and each fits on one line; otherwise an empty
    list."""
    names = model.huggingface.get("id2label") or {}
    found = [names[key] for key in sorted(names, key=int)]
    fitting = len(found) == config.get("num_classes") and not any("\n" in str(name) for name in found)
    return [str(name) for name in found] if fitting else []


def _vocabulary(model: Any) -> list[str]:
    """Return the tokens of a lower-case WordPiece tokenizer whose ids have no gaps; otherwise an empty list."""
    if model.tokenizer is None:
        return []
    said = json.loads(model.tokenizer.to_files(indent=False)["tokenizer.json"])
    if said["model"].get("type") != "WordPiece" or not (said.get("normalizer") or {}).get("lowercase"):
        return []
    tokens = sorted(said["model"]["vocab"].items(), key=lambda pair: pair[1])
    whole = [number for _, number in tokens] == list(range(len(tokens)))
    return [token for token, _ in tokens] if whole else []


# ---- the FlatBuffer --------------------------------------------------------------------------------------------------


class _Writer:
    """A writer of FlatBuffer tables by the numbers of their fields. Nested tables must be written first."""

    def __init__(self) -> None:
        import flatbuffers

        self.builder = flatbuffers.Builder(1024)

    def table(self, fields: Mapping[int, Any]) -> int:
        """Write a table of texts, lists of floats, one-byte ``_Enum`` values, and results of ``table`` and
        ``tables``."""
        builder = self.builder
        placed = {place: self._placed(value) for place, value in fields.items() if value not in (None, "", [])}
        builder.StartObject(8)
        for place, value in placed.items():
            if isinstance(value, _Enum):
                builder.PrependUint8Slot(place, int(value), 0)
            else:
                builder.PrependUOffsetTRelativeSlot(place, value, 0)
        return builder.EndObject()

    def tables(self, offsets: Sequence[int]) -> int | None:
        if not offsets:
            return None
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def _placed(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.builder.CreateString(value)
        if isinstance(value, list):
            return self.builder.CreateNumpyVector(np.array(value, "float32"))
        return value


class _Enum(int):
    """A value of an enumeration, or the type of a union."""


def _written(
    task: Task | None, card: Mapping[str, str], inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> bytes:
    """Return the bytes of ``ModelMetadata``, which describes the graph only if the file has a task."""
    writer = _Writer()
    graphs = [] if task is None else [_graph(writer, task, inputs, outputs)]
    said = {"version": f"attention-zoo {version('attention-zoo')}"}
    said |= {} if task is None else {"name": task.name, "description": task.description}
    said |= card
    fields = {place: said.get(name) for name, place in CARD_FIELDS.items()}
    writer.builder.Finish(writer.table({**fields, 3: writer.tables(graphs), 7: PARSER}), file_identifier=IDENTIFIER)
    return bytes(writer.builder.Output())


def _graph(writer: _Writer, task: Task, inputs: Sequence[str], outputs: Sequence[str]) -> int:
    """Write ``SubGraphMetadata`` and return its offset."""

    def file(name: str, kind: int) -> int:
        return writer.table({0: name, 2: _Enum(kind)})

    def tensor(name: str, content: int, kind: int, units: list[int], files: list[int]) -> int:
        content = writer.table({0: _Enum(kind), 1: content})
        return writer.table({0: name, 3: content, 4: writer.tables(units), 6: writer.tables(files)})

    given = []
    for name in inputs:
        if task.inputs:
            given.append(tensor(task.inputs[name], writer.table({}), FEATURE, [], []))
            continue
        units = []
        if task.normalization is not None:
            mean, std = task.normalization
            units = [writer.table({0: _Enum(NORMALIZATION), 1: writer.table({0: mean, 1: std})})]
        given.append(tensor(name, writer.table({0: _Enum(RGB)}), IMAGE, units, []))
    labels = [file(LABELS, AXIS_LABELS)] if task.labels else []
    made = [tensor(name, writer.table({}), FEATURE, [], labels) for name in outputs]
    units = []
    if task.vocabulary:
        options = writer.table({0: writer.tables([file(VOCABULARY, VOCABULARY_FILE)])})
        units = [writer.table({0: _Enum(BERT_TOKENIZER), 1: options})]
    return writer.table({2: writer.tables(given), 3: writer.tables(made), 5: writer.tables(units)})
