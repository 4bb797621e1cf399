"""TFLite files with a signature for each of several lengths, or with one signature for any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.export.command import lengths
from attention_zoo.runtime.buckets import bucket_of, by_length
from attention_zoo.runtime.tflite.flatbuffer import unpacked
from helpers import close, run, shared, tiny

pytestmark = pytest.mark.runs_together

NAMES = ["serving_default_4", "serving_default_8", "serving_default_20"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = tiny("bert", "backbone", vocab_size=20_000)
    file = tmp_path_factory.mktemp("buckets") / "m.tflite"
    export.to_tflite(model, file, sequence_length=(20, 4, 8), batch_size=2)
    return model, file


@pytest.mark.slow
def test_the_shortest_that_fits_runs(bert: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the outputs, cut to the length of the input, are those of Keras.

    This includes a batch that is larger than that of the file, which is run in parts.
    """
    model, file = bert
    runner = export.load(file)
    assert by_length(runner.graphs, "serving_default") == NAMES
    used: list[str] = []
    for name, graph in runner.graphs.items():
        call = graph._call
        monkeypatch.setattr(graph, "_call", lambda arrays, name=name, call=call: (used.append(name), call(arrays))[1])
    rng = np.random.default_rng(0)
    for length, name in ((1, NAMES[0]), (4, NAMES[0]), (5, NAMES[1]), (8, NAMES[1]), (9, NAMES[2]), (20, NAMES[2])):
        ids = rng.integers(0, 20_000, (3, length))
        mask = np.ones_like(ids)
        mask[1, length // 2 + 1 :] = 0
        given = {"input_ids": ids, "attention_mask": mask}
        used.clear()
        found, expected = runner.run(given), run(model, given)
        assert used == [name] * 2, length
        for output, value in found.items():
            keep = mask.astype(bool) if value.ndim == 3 else slice(None)
            close(value[keep], expected[output][keep])
    close(runner.run(ids)["pooler_output"], run(model, {"input_ids": ids})["pooler_output"])  # an array without a name
    with pytest.raises(ValueError, match="sequence of 21; accepted: at most 20"):
        runner.run(np.ones((1, 21), int))


@pytest.mark.slow
def test_weights_are_stored_once(bert: tuple[Any, Path], tmp_path: Path) -> None:
    model, file = bert
    single = export.to_tflite(model, tmp_path / "m.tflite", sequence_length=20, batch_size=2)
    assert file.stat().st_size < single.bytes + 150_000 < 1.1 * single.weight_bytes
    assert list(export.load(tmp_path / "m.tflite").graphs) == ["serving_default"]


def test_verify_covers_every_length(bert: tuple[Any, Path]) -> None:
    model, file = bert
    report = export.verify(model, file)
    assert report.passed
    for name in NAMES:
        length = bucket_of(name)[1][0]
        assert any(check.name == f"{name}: batch 2, length {length}, padding left" for check in report.checks)
    fitting = [check.name for check in report.checks if check.name.startswith("shortest fitting signature")]
    assert [int(name.split("length ")[1].split(",")[0]) for name in fitting] == [4, 5, 8, 9, 20]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_other_precisions_keep_them(bert: tuple[Any, Path], precision: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model, file = bert
    made = tmp_path / "m.tflite"
    export.to_tflite(model, made, sequence_length=(4, 8, 20), batch_size=2, precision=precision, least_cosine=0.5)
    assert sorted(Interpreter(str(made)).get_signature_list()) == sorted(NAMES)
    assert made.stat().st_size < file.stat().st_size / 1.7  # the graphs themselves do not become smaller
    assert export.verify(model, made).passed


@pytest.mark.runs_with("transformer-marian")
@pytest.mark.slow
def test_a_source_in_several_lengths(tmp_path: Path) -> None:
    """Check that an encoder-decoder with two source lengths generates the same tokens as Keras."""
    model = shared("transformer", "marian")
    export.to_tflite(model, tmp_path / "m.tflite", sequence_length=(4, 12), max_length=8)
    runner = export.load(tmp_path / "m.tflite")
    assert sorted(runner.graphs) == ["decode_12", "decode_4", "encode_12", "encode_4"]
    for graph in unpacked((tmp_path / "m.tflite").read_bytes()).subgraphs:
        joint = any("+" in tensor.name.decode() for tensor in graph.tensors)
        assert joint == graph.name.startswith(b"decode"), "as in a file of one length"
    rng = np.random.default_rng(0)
    for length in (3, 4, 5, 12):
        ids = rng.integers(3, model.config.vocab_size, (2, length))
        options = {"max_new_tokens": 6, "stop_tokens": []}
        assert np.array_equal(runner.generate(ids, **options), np.asarray(model.generate(ids, **options)))
    report = export.verify(model, tmp_path / "m.tflite")
    assert report.passed
    graphs = ("encode_4: batch 1, length 4", "encode_12: batch 1, length 12")
    for name in (*graphs, "batch 2, prompt 4,", "batch 2, prompt 12,"):
        assert any(check.name.startswith(name) for check in report.checks), name


@pytest.mark.slow
def test_pairs_of_lengths_without_a_cache(tmp_path: Path) -> None:
    model = shared("transformer", "marian")
    sizes = {"target": (3, 9), "source": (4, 12)}
    export.to_tflite(model, tmp_path / "m.tflite", sequence_length=sizes, cache=False)
    runner = export.load(tmp_path / "m.tflite")
    assert sorted(runner.graphs) == ["serving_default_12_9", "serving_default_4_3"]
    given = {"input_ids": np.full((1, 2), 5), "decoder_input_ids": np.full((1, 7), 6)}
    close(runner.run(given)["logits"], run(model, given)["logits"])
    assert export.verify(model, tmp_path / "m.tflite").passed


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_any_length(precision: str, tmp_path: Path) -> None:
    """Check that a single signature computes rows of any length without padding."""
    model = shared("bert", "masked_lm")
    options: dict[str, Any] = {"precision": precision, "least_cosine": 0.5} if precision != "fp32" else {}
    export.to_tflite(model, tmp_path / "m.tflite", sequence_length="dynamic", **options)
    runner = export.load(tmp_path / "m.tflite")
    assert runner.signature.sizes == {"batch": 1} and list(runner.graphs) == ["serving_default"]
    graph: Any = runner.graphs["serving_default"]
    shapes: list[Any] = []
    call, graph._call = graph._call, lambda arrays: (shapes.append(arrays["input_ids"].shape), call(arrays))[1]
    for length in (3, 11, 1, 40):
        ids = np.random.default_rng(length).integers(0, model.config.vocab_size, (2, length))
        found = runner.run(ids)["logits"]
        assert shapes[-2:] == [(1, length)] * 2
        if precision == "fp32":
            close(found, run(model, {"input_ids": ids})["logits"])
    report = export.verify(model, tmp_path / "m.tflite")
    assert report.passed
    assert {"batch 1, length 1, padding none", "batch 1, length 33, padding left"} <= {c.name for c in report.checks}
    with pytest.raises(ValueError, match="sequence of 41; accepted: at most 40"):
        runner.run(np.ones((1, 41), int))


@pytest.mark.parametrize(
    ("family", "variant", "options", "message"),
    [
        ("bert", "backbone", {"sequence_length": ()}, "sequence_length: got ()"),
        ("bert", "backbone", {"sequence_length": (4, 4)}, "several different ones"),
        ("bert", "backbone", {"sequence_length": (4, "8")}, "accepted: an integer, or several"),
        ("bert", "backbone", {"sequence_length": (4, 0)}, "sequence: got sequence of 0"),
        ("bert", "backbone", {"sequence_length": (4, 99_999)}, "accepted: at most"),
        ("bert", "backbone", {"sequence_length": {"source": (4, 8)}}, "got ['source']"),
        ("vit", "classifier", {"sequence_length": (4, 8)}, "a model of images"),
        ("bert", "backbone", {"sequence_length": "any"}, "accepted: an integer, or several, or 'dynamic'"),
        ("vit", "classifier", {"sequence_length": "dynamic"}, "a model of images"),
        ("gpt", "llama", {"sequence_length": "dynamic", "max_length": 8}, "sequence_length"),
        ("transformer", "marian", {"sequence_length": "dynamic"}, "got 'dynamic'; accepted: an integer, or several"),
        ("gpt", "llama", {"sequence_length": (4, 8), "max_length": 8}, "sequence_length"),
        ("transformer", "marian", {"sequence_length": {"source": (4, 8), "target": (1, 2, 3)}}, "as many of each"),
    ],
)
def test_wrong_lengths(family: str, variant: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:
        export.to_tflite(shared(family, variant), tmp_path / "m.tflite", **options)
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_lengths_of_the_command_line() -> None:
    assert [lengths(words) for words in (None, "9", "4,8, 16", "dynamic")] == [None, 9, [4, 8, 16], "dynamic"]
    for wrong in ("", "4,", "-4", "four", "4.0"):
        with pytest.raises(ValueError, match="accepted: an integer, several as 32,128, or dynamic"):
            lengths(wrong)


def test_lengths_need_a_mask(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((None, 4)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="whose inputs no mask lets be padded"):
        export.to_tflite(model, tmp_path / "m.tflite", sequence_length=(4, 8))
