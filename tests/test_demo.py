"""The demo: separation of training and test text, the rule of token masking, and one complete run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from attention_zoo import demo
from helpers import ROOT


@pytest.fixture(scope="module")
def paragraphs():
    return demo.text.read_topics()


def folded(part):
    return {paragraph.folded for paragraph in part}


def test_importing_the_demo_is_light():
    heavy = ("keras", "tensorflow", "sklearn", "matplotlib", "tokenizers", "rich")
    code = f"import sys, attention_zoo.demo; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_paragraph_is_there_once(paragraphs):
    assert len(paragraphs) > 1000
    assert len(folded(paragraphs)) == len(paragraphs)


def test_topic_split_shares_neither_topics_nor_paragraphs(paragraphs):
    train, test = demo.text.topic_split(paragraphs)
    assert not {p.topic for p in train} & {p.topic for p in test}
    assert not folded(train) & folded(test)
    assert len(train) + len(test) == len(paragraphs)
    assert 0.05 < sum(len(p.text) for p in test) / sum(len(p.text) for p in paragraphs) < 0.35


def test_paragraph_split_is_complete_and_disjoint(paragraphs):
    train, test = demo.text.paragraph_split(paragraphs)
    assert not folded(train) & folded(test)
    assert len(train) + len(test) == len(paragraphs)
    assert 0.1 < len(test) / len(paragraphs) < 0.3


def test_splits_do_not_depend_on_what_else_is_there(paragraphs):
    half = paragraphs[::2]
    for split in (demo.text.topic_split, demo.text.paragraph_split):
        assert folded(split(half)[1]) == folded(split(paragraphs)[1]) & folded(half)


def test_sentences_are_unique_and_come_from_paragraphs_that_training_did_not_read(paragraphs):
    train, test = demo.text.labelled_sentences(paragraphs)
    texts = [sentence.casefold() for sentence, _ in (*train, *test)]
    assert len(texts) == len(set(texts))
    assert len(train) > 500 and len(test) > 100
    read = " ".join(folded(demo.text.paragraph_split(paragraphs)[0]))
    seen = [sentence for sentence, _ in test if sentence in read]
    assert len(seen) <= len(test) // 100, seen  # a phrase inside a longer sentence may recur


def test_labels_are_the_groups_of_the_topics(paragraphs):
    train, test = demo.text.labelled_sentences(paragraphs)
    for part in (train, test):
        assert {label for _, label in part} == set(range(len(demo.text.GROUPS)))
    for topic, group in (("debugger", "debugger"), ("class", "statements"), ("string-methods", "built-in types")):
        text = " ".join(p.folded for p in paragraphs if p.topic == topic)
        own = [label for sentence, label in (*train, *test) if sentence in text]
        assert own and np.mean(np.array(own) == list(demo.text.GROUPS).index(group)) > 0.9
    members = [topic for topics in demo.text.GROUPS.values() for topic in topics]
    assert len(members) == len(set(members))


def test_repeated_sentences_keep_their_first_label():
    first = demo.text.Paragraph(
        "assert", "This sentence has quite enough words in it. Another one also has enough words here."
    )
    again = demo.text.Paragraph(
        "debugger", "this one is code-like and lower case. This sentence has quite enough words in it."
    )
    assert [label for _, label in demo.text.sentences([first, again])] == [0, 0]
    assert demo.text.sentences([demo.text.Paragraph("no such topic", first.text)]) == []


def test_code_and_grammar_are_no_sentences():
    grammar = demo.text.Paragraph("assert", 'Statement has the following form here ::= "assert" expression and more.')
    code = demo.text.Paragraph("assert", ">>> Print all of the values that are there.")
    assert demo.text.sentences([grammar, code]) == []


def test_masking_follows_the_rule():
    vocabulary, rng = 1000, np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (400, 500)).astype("int32")
    shown, weights = demo.text.mask_tokens(ids, vocabulary, np.random.default_rng(1))
    chosen = weights > 0
    special = ids < len(demo.text.SPECIALS)
    assert not chosen[special].any()
    assert chosen[~special].mean() == pytest.approx(0.15, abs=0.005)
    np.testing.assert_array_equal(shown[~chosen], ids[~chosen])
    masked, same = shown[chosen] == demo.text.MASK_ID, shown[chosen] == ids[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.01)
    assert same.mean() == pytest.approx(0.1, abs=0.01)
    random = shown[chosen][~masked & ~same]
    assert len(random) / chosen.sum() == pytest.approx(0.1, abs=0.01)
    assert random.min() >= len(demo.text.SPECIALS) and random.max() < vocabulary and len(np.unique(random)) > 900
    assert shown.dtype == np.int32 and set(np.unique(weights)) == {0.0, 1.0}


def test_tiles_and_crops():
    ids = np.arange(103, dtype="int32")
    np.testing.assert_array_equal(demo.text.tiles(ids, 10).ravel(), ids[:100])
    pieces = demo.text.crops(ids, 500, 10, np.random.default_rng(0))
    assert pieces.shape == (500, 10) and (np.diff(pieces) == 1).all()
    assert pieces.min() == 0 and pieces.max() == 102


def test_tokenizer_knows_every_text_and_frames_sentences(paragraphs):
    tokenizer = demo.text.train_tokenizer(paragraphs[:300], 400)
    assert [tokenizer.token_to_id(token) for token in demo.text.SPECIALS] == list(range(len(demo.text.SPECIALS)))
    text = "Ω → 'naïve' \n\tcode"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    inputs = demo.text.encode_sentences(tokenizer, ["a word", "a sentence that is far too long for this length"], 12)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert (ids[:, 0] == demo.text.CLS_ID).all() and ids[1, -1] == demo.text.SEP_ID
    np.testing.assert_array_equal(mask, ids != demo.text.PAD_ID)
    assert (ids == demo.text.SEP_ID).sum(axis=1).tolist() == [1, 1]


def test_shifted_images_keep_their_size_and_half_stay():
    images = np.random.default_rng(0).uniform(-1, 1, (2000, 8, 8, 1)).astype("float32")
    moved = demo.train.shifted(images, np.random.default_rng(1))
    assert moved.shape == images.shape and moved.dtype == images.dtype
    same = (moved == images).all(axis=(1, 2, 3)).mean()
    assert 0.2 < same < 0.8
    shift = images[:, :-1, :, :] == moved[:, 1:, :, :]  # some moved down by one and not sideways
    assert shift.all(axis=(1, 2, 3)).any()


def test_a_failed_file_is_shown_as_failed():
    from rich.console import Console

    model = SimpleNamespace(family="vit", count_params=lambda: 1234)
    good = {"format": "onnx", "path": "vit.onnx", "bytes": 2_000_000, "seconds": 1.0, "median_ms": 0.5}
    wrong = {**good, "greatest_difference": 0.3, "passed": False}
    broken = {"format": "tflite", "path": "vit.tflite", "passed": False, "error": "no such operator [Foo]"}
    trained = demo.train.Trained("vit", "ViT, digits", model, "accuracy", 0.1, 0.9, 8, 1.0, {}, [wrong, broken])
    printed = io.StringIO()
    demo.report.print_table(Console(file=printed, width=80), [trained])
    text = printed.getvalue()
    assert text.count("FAIL") == 2 and "PASS" not in text and "vit.tflite: no such operator [Foo]" in text
    assert "0.100 → 0.900" in text and "3e-01" in text


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output: got .*file.*accepted: a folder"):
        demo.run(tmp_path / "file", quick=True)


@pytest.mark.slow
def test_quick_demo(tmp_path):
    from matplotlib.image import imread
    from rich.console import Console

    printed = io.StringIO()
    result = demo.run(tmp_path, quick=True, console=Console(file=printed, width=100))
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    assert result["passed"] is True

    metrics = {model["name"]: model["metric"] for model in result["models"]}
    assert set(metrics) == {"gpt", "bert-mlm", "bert-classifier", "vit"}
    assert metrics["gpt"]["after"] < 0.5 * metrics["gpt"]["before"]
    assert metrics["gpt"]["bits_per_byte_after"] < metrics["gpt"]["bits_per_byte_before"]
    for name in ("bert-mlm", "bert-classifier"):
        assert metrics[name]["after"] > max(metrics[name]["before"], metrics[name]["majority_baseline"])
    assert metrics["vit"]["after"] > 0.85 > metrics["vit"]["before"]

    for model in result["models"]:
        assert {entry["format"] for entry in model["exports"]} == {"onnx", "tflite"}
        for entry in model["exports"]:
            assert entry["passed"] and entry["greatest_difference"] < 1e-3 and entry["median_ms"] > 0
            assert (tmp_path / entry["path"]).stat().st_size == entry["bytes"]
        assert (tmp_path / model["name"] / "model.safetensors").is_file()

    image = imread(tmp_path / "attention.png")
    assert min(image.shape[:2]) > 500 and image[..., :3].std() > 0.05
    report = (tmp_path / "demo.md").read_text(encoding="utf-8")
    assert report.count("PASS") == printed.getvalue().count("PASS") == 8 and "FAIL" not in report
    assert (tmp_path / "gpt" / "tokenizer.json").is_file()

    for format in ("onnx", "tflite"):  # load the files without Keras, as an application would
        command = [sys.executable, str(ROOT / "examples" / "run_exported.py"), str(tmp_path), "--format", format]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("→") == 2
