"""Plots of models with a tokenizer, with preprocessing or with extra tokens before the patches, and their headings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit

import attention_zoo as az
from attention_zoo import plot
from attention_zoo.cli import main
from attention_zoo.layers.images import ImageProcessor
from attention_zoo.plot import pictures
from helpers import close, float64, run, shared, tiny


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a dict that receives the heading and labels passed to the panels."""
    found: dict[str, Any] = {}
    draw = pictures.panels

    def watched(figure: Any, maps: Any, titles: Any, heading: str, **options: Any) -> None:
        found.update(options, heading=heading)
        draw(figure, maps, titles, heading, **options)

    monkeypatch.setattr(pictures, "panels", watched)
    return found


def with_words(model: Any) -> Any:
    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(90)}, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()
    model.tokenizer = az.Tokenizer(backend)
    return model


# ---- words -----------------------------------------------------------------------------------------------------------


def test_words_along_the_axes(told: dict[str, Any], tmp_path: Path) -> None:
    model = with_words(tiny("gpt", "gpt2"))
    plot.attention_maps(model, np.array([[5, 90, 7]]), tmp_path / "a.png")  # 90 is not in the vocabulary
    assert told["labels"] == (["w5", "90", "w7"],) * 2
    plot.attention_maps(model, np.array([[5, 90, 7]]), tmp_path / "a.png", labels=["x", "y", "z"])
    assert told["labels"] == (["x", "y", "z"],) * 2
    drawn = plot.command("attention", model, tmp_path / "a.png", text="w3 w9 w1", random=False)
    assert told["labels"][0] == ["w3", "w9", "w1"]
    ids = {"input_ids": np.array([[3, 9, 1]])}
    close(drawn, np.stack(run(model, ids, output_attentions=True)["attentions"])[:, 0], 1e-6)


def test_words_of_bytes(told: dict[str, Any], tmp_path: Path) -> None:
    """A space is shown as a visible character, and a partial UTF-8 character as its byte-level token."""
    backend = Tokenizer(BPE({"a": 0, "Ġ": 1, "Ġa": 2, "Ã": 3, "©": 4, "Ã©": 5}, [("Ġ", "a"), ("Ã", "©")]))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    model = tiny("gpt", "gpt2")
    model.tokenizer = az.Tokenizer(backend)
    plot.attention_maps(model, np.array([[0, 2, 3, 5]]), tmp_path / "a.png")
    assert told["labels"][0] == ["a", "␣a", "Ã", "é"]


@pytest.mark.slow
def test_words_of_an_alignment(told: dict[str, Any], tmp_path: Path) -> None:
    model = with_words(tiny("seq2seq", "dot"))
    plot.alignment(model, {"input_ids": np.array([[5, 6]])}, tmp_path / "a.png")
    written = model.generate(np.array([[5, 6]]), max_new_tokens=len(told["labels"][0]))[0, 1:]
    assert told["labels"] == ([f"w{token}" if token < 90 else str(token) for token in written], ["w5", "w6"])


# ---- requested inputs and layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "family", "variant", "options"),
    [
        ("text", "gpt", "gpt2", {"text": "a word"}),  # the model has no tokenizer
        ("text", "gpt", "gpt2", {"random": False}),
        ("text", "gpt", "gpt2", {"text": "a", "tokens": [1]}),
        ("text", "vit", "features", {"text": "a"}),
        ("image", "vit", "features", {"random": False}),
        ("image", "vit", "features", {"image": "nowhere.png"}),
    ],
)
def test_mistakes(argument: str, family: str, variant: str, options: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: got .*; accepted: "):
        plot.command("attention", shared(family, variant), tmp_path / "a.png", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_loaded_model_is_not_shown_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    az.save(with_words(tiny("gpt", "gpt2")), tmp_path / "model")

    def command(*arguments: Any) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in ("plot", *arguments)])
        return ended.value.code, capsys.readouterr().err

    code, err = command("attention", tmp_path / "model", tmp_path / "a.png")
    assert code == 2 and "text: got none for gpt, whose weights were loaded; accepted: tokens or text" in err
    assert not (tmp_path / "a.png").exists()
    for options in (["--random"], ["--text", "w1 w2"], ["--ids", "1 2"]):
        assert command("attention", tmp_path / "model", tmp_path / "a.png", *options) == (0, "")
    assert command("positions", tmp_path / "model", tmp_path / "b.png") == (0, "")


@pytest.mark.slow
def test_what_is_left_out_is_told(told: dict[str, Any], tmp_path: Path) -> None:
    model = tiny("gpt", "gpt2", num_layers=13, num_heads=16)
    plot.attention_maps(model, np.array([[5, 6]]), tmp_path / "a.png")
    assert told["heading"] == "gpt: attention, 12 of 13 layers, 12 of 16 heads"
    plot.attention_maps(model, np.array([[5, 6]]), tmp_path / "a.png", layer=-1)
    assert told["heading"] == "gpt: attention, layer 12, 12 of 16 heads"
    plot.attention_maps(shared("gpt", "gpt2"), np.array([[5, 6]]), tmp_path / "a.png")
    assert told["heading"] == "gpt: attention"


# ---- images ----------------------------------------------------------------------------------------------------------


def shares(model: Any, inputs: Any, front: int) -> np.ndarray:
    """Return the class token's attention to the patches: the product of the layers' matrices (arXiv:2005.00928)."""
    flow: Any = 1.0
    for weights in run(model, inputs, output_attentions=True)["attentions"]:
        mean = weights[0].astype("float64").mean(axis=0)
        flow = (mean + np.eye(len(mean))) / 2 @ (np.eye(len(mean)) if isinstance(flow, float) else flow)
    return flow[0, front:]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "front"), [("deit", 2), ("mae", 2), ("images", 1)])
def test_rollout_of_every_kind_of_vit(variant: str, front: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """Cover a distillation token, fixed positions with a register token, and preprocessing that resizes images."""
    model, raw = shared("vit", variant), variant == "images"
    image = rng.uniform(0, 255, (30, 41, 3)) if raw else rng.normal(size=(20, 25, 3))
    inputs = {"images" if raw else "pixel_values": image[None].astype("float32")}
    drawn = plot.attention_rollout(model, image, tmp_path / "a.png")
    assert drawn.shape == ((5, 4) if raw else (4, 5))  # patches of 5 × 5 pixels
    close(drawn.reshape(-1), shares(model, inputs, front), 1e-6)
    maps = plot.attention_maps(model, inputs, tmp_path / "b.png")
    assert maps.shape == (2, 4, 20 + front, 20 + front)


@pytest.mark.slow
def test_the_tokens_before_the_patches_are_named(told: dict[str, Any], tmp_path: Path) -> None:
    for variant, front in (("deit", ["class", "distillation"]), ("mae", ["class", "register0"]), ("images", ["class"])):
        plot.command("attention", shared("vit", variant), tmp_path / "a.png")
        assert told["labels"][0][: len(front) + 2] == [*front, "0,0", "0,1"]
        assert told["labels"][0][-1] == ("4,3" if variant == "images" else "3,3")


@pytest.mark.parametrize("variant", ["deit", "mae"])
def test_positions_of_every_kind_of_vit(variant: str, tmp_path: Path) -> None:
    model = shared("vit", variant)
    drawn = plot.position_map(model, tmp_path / "a.png")
    if variant == "deit":
        vectors = float64(model.embedding.positions)[0, 2:]
    else:  # one half each for row and column: sines, then cosines, of 8 frequencies
        places, rates = np.arange(4.0), 10000.0 ** (-np.arange(8) / 8)
        side = np.concatenate([np.sin(places[:, None] * rates), np.cos(places[:, None] * rates)], axis=1)
        vectors = np.array([np.concatenate([side[i], side[j]]) for i in range(4) for j in range(4)])
    norms = np.linalg.norm(vectors, axis=1)
    close(drawn, vectors @ vectors.T / np.outer(norms, norms), 1e-6)
    assert plot.position_map(shared("gpt", "grid"), tmp_path / "b.png").shape == (40, 32)


def test_pictures_go_through_the_model_s_preprocessing(tmp_path: Path) -> None:
    config = {"size": {"height": 20, "width": 20}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    model = tiny("vit", "features")
    model.preprocessor = config
    drawn = plot.command("rollout", model, tmp_path / "a.png", image=tmp_path / "photo.png", random=False)
    ready = np.asarray(ImageProcessor.from_huggingface(config)(pixels[None]))
    close(drawn, plot.attention_rollout(model, ready, tmp_path / "b.png"), 1e-7)
    inside = shared("vit", "images")
    drawn = plot.command("rollout", inside, tmp_path / "a.png", image=tmp_path / "photo.png")
    close(drawn, plot.attention_rollout(inside, pixels, tmp_path / "b.png"), 1e-7)
