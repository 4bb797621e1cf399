"""The values that are plotted, compared with independent references, and the image files.

Image files are valid and reproducible; after an error no file is left behind.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from PIL import Image

from attention_zoo import plot
from attention_zoo.layers.position import ALiBi, LearnedPositions, RelativePositionBias, SinusoidalPositions
from attention_zoo.layers.rotary import RotaryEmbedding
from helpers import close, float64, python, run, shared, tiny

IDS = np.array([[5, 3, 11, 40, 7, 7], [1, 2, 3, 4, 5, 6]], "int32")
MASK = np.array([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], "int32")
TARGET = np.array([[1, 9, 8, 7], [1, 4, 4, 4]], "int32")


def is_picture(path: Path) -> bool:
    """Return whether the file is a PNG that decodes to a non-uniform image or an SVG that contains an image."""
    if path.suffix == ".png":
        with Image.open(io.BytesIO(path.read_bytes())) as opened:
            return opened.format == "PNG" and np.asarray(opened.convert("L")).std() > 5
    root = ElementTree.fromstring(path.read_bytes())
    return root.tag.endswith("}svg") and next(root.iter("{http://www.w3.org/2000/svg}image"), None) is not None


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "variant"), [("gpt", "alibi"), ("bert", "masked_lm")])
def test_maps_are_the_scores_without_padding(family: str, variant: str, tmp_path: Path) -> None:
    model, inputs = shared(family, variant), {"input_ids": IDS, "attention_mask": MASK}
    drawn = plot.attention_maps(model, inputs, tmp_path / "map.png")
    scores = np.stack(run(model, inputs, output_attentions=True)["attentions"])[:, 0, :, 1:5, 1:5]
    close(drawn, scores, 1e-6)
    close(drawn.sum(axis=-1), np.ones(drawn.shape[:-1]))
    assert is_picture(tmp_path / "map.png")
    last = plot.attention_maps(model, inputs, tmp_path / "last.svg", layer=-1, labels=["$a$", "\x00\n", "-->", "é"])
    np.testing.assert_array_equal(last, drawn[-1:])
    assert is_picture(tmp_path / "last.svg")


def test_bare_ids_and_lists_are_taken(tmp_path: Path) -> None:
    model = shared("gpt", "gpt2")
    drawn = plot.attention_maps(model, IDS, tmp_path / "a.png", layer=0)
    lists = {"input_ids": IDS.tolist(), "attention_mask": None}  # None counts as absent
    np.testing.assert_array_equal(plot.attention_maps(model, lists, tmp_path / "b.png", layer=0), drawn)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_half_precision_and_a_single_token(tmp_path: Path) -> None:
    model = tiny("gpt", "llama", dtype="bfloat16")
    drawn = plot.attention_maps(model, IDS[:, :1], tmp_path / "one.png")
    np.testing.assert_array_equal(drawn, np.ones((2, 4, 1, 1)))


@pytest.mark.parametrize("kind", [None, "encoder", "decoder", "cross"])
def test_kinds_of_an_encoder_decoder(kind: str | None, tmp_path: Path) -> None:
    model = shared("transformer", "marian")
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": TARGET}
    inputs["decoder_attention_mask"] = np.array([[1, 1, 1, 0]] * 2, "int32")
    drawn = plot.attention_maps(model, inputs, tmp_path / "map.png", kind=kind, layer=1)
    scores = run(model, inputs, output_attentions=True)[f"{kind or 'cross'}_attentions"][1][0]
    target, source = slice(3), slice(1, 5)
    query, key = {"encoder": (source, source), "decoder": (target, target)}.get(kind or "", (target, source))
    close(drawn[0], scores[:, query, key], 1e-6)


@pytest.mark.slow
def test_a_large_model_is_drawn_in_part(tmp_path: Path) -> None:
    model = tiny("gpt", "gpt2", num_layers=13, num_heads=2)
    drawn = plot.attention_maps(model, IDS[:, :3], tmp_path / "map.png")
    scores = np.stack(run(model, {"input_ids": IDS[:, :3]}, output_attentions=True)["attentions"])[:, 0]
    close(drawn, scores[[0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]], 1e-6)
    assert plot.position_map(ALiBi(16), tmp_path / "bias.png", length=3).shape == (12, 3, 3)
    with Image.open(tmp_path / "map.png") as picture:
        assert max(picture.size) < 4000


# ---- rollout ---------------------------------------------------------------------------------------------------------


def rolled_out(layers: list[np.ndarray]) -> np.ndarray:
    """Compute attention rollout entry by entry, after equation 1 of Abnar & Zuidema (2020)."""
    tokens = layers[0].shape[-1]
    flow = [[float(i == j) for j in range(tokens)] for i in range(tokens)]
    for heads in layers:
        mixed = [
            [0.5 * sum(head[i][j] for head in heads) / len(heads) + 0.5 * (i == j) for j in range(tokens)]
            for i in range(tokens)
        ]
        mixed = [[weight / sum(row) for weight in row] for row in mixed]
        flow = [[sum(mixed[i][k] * flow[k][j] for k in range(tokens)) for j in range(tokens)] for i in range(tokens)]
    return np.array(flow)


def test_rollout_follows_the_paper(rng: np.random.Generator) -> None:
    layers = [rng.random((2, 3, 5, 5)) for _ in range(4)]  # rows do not sum to 1; rollout normalizes them
    for row in range(2):
        close(plot.rollout(layers)[row], rolled_out([weights[row] for weights in layers]), 1e-12)
    close(plot.rollout([weights[1] for weights in layers]), plot.rollout(layers)[1], 1e-15)
    close(plot.rollout(layers).sum(axis=-1), np.ones((2, 5)), 1e-12)


def test_rollout_refuses_what_is_no_attention() -> None:
    for wrong in ([], [np.ones((3, 3))], [np.ones((1, 2, 3, 4))], [np.ones((1, 2, 3, 3)), np.ones((1, 2, 4, 4))]):
        with pytest.raises(ValueError, match=r"attentions: got .*; accepted"):
            plot.rollout(wrong)


@pytest.mark.parametrize(("variant", "size"), [("classifier", (20, 20)), ("dino", (10, 35))])
def test_shares_of_the_patches(variant: str, size: tuple[int, int], tmp_path: Path, rng: np.random.Generator) -> None:
    model = shared("vit", variant)
    image = rng.normal(size=(*size, 3))
    drawn = plot.attention_rollout(model, image, tmp_path / "rollout.png")
    scores = run(model, {"pixel_values": image[None].astype("float32")}, output_attentions=True)["attentions"]
    expected = rolled_out([weights[0].astype("float64") for weights in scores])[0]
    front = 1 + model.config.num_registers
    close(drawn, expected[front:].reshape(size[0] // 5, size[1] // 5), 1e-7)
    assert is_picture(tmp_path / "rollout.png")
    np.testing.assert_array_equal(plot.attention_rollout(model, image[None], tmp_path / "rollout.svg"), drawn)
    assert is_picture(tmp_path / "rollout.svg")


# ---- positions -------------------------------------------------------------------------------------------------------


def test_added_positions(tmp_path: Path) -> None:
    drawn = plot.position_map(SinusoidalPositions(8), tmp_path / "p.png", length=50)
    angles = np.arange(50)[:, None] / 10000.0 ** (np.arange(0, 8, 2) / 8)
    close(drawn[:, 0::2], np.sin(angles))
    close(drawn[:, 1::2], np.cos(angles))
    assert is_picture(tmp_path / "p.png")
    bert = shared("bert", "backbone")
    close(plot.position_map(bert, tmp_path / "p.png"), float64(bert.positions.embeddings), 0)  # all 40 positions


def test_rotary_positions(tmp_path: Path) -> None:
    drawn = plot.position_map(RotaryEmbedding(6, 500.0), tmp_path / "p.svg", length=9)
    angles = np.arange(9)[:, None] / 500.0 ** (np.arange(0, 6, 2) / 6)
    close(drawn, np.stack([np.cos(angles), np.sin(angles)]))
    assert is_picture(tmp_path / "p.svg")
    assert plot.position_map(shared("gpt", "llama"), tmp_path / "p.png").shape == (2, 40, 6)


def test_biases(tmp_path: Path) -> None:
    ahead = np.arange(10)[None] - np.arange(10)[:, None]
    drawn = plot.position_map(ALiBi(8), tmp_path / "p.png", length=10)
    close(drawn, -np.abs(ahead) * 0.5 ** np.arange(1, 9)[:, None, None])
    model = shared("transformer", "t5")
    drawn = plot.position_map(model, tmp_path / "p.png", length=10)
    table = float64(model.encoder_positions.embeddings)
    bucket = np.where(ahead > 0, 16, 0) + np.where(np.abs(ahead) < 8, np.abs(ahead), 8)  # 8 and 9 share a bucket
    close(drawn, np.moveaxis(table[bucket], -1, 0))
    assert plot.position_map(RelativePositionBias(1), tmp_path / "p.png").shape == (1, 32, 32)


def test_alikeness_of_patch_positions(tmp_path: Path) -> None:
    model = shared("vit", "dino")
    drawn = plot.position_map(model, tmp_path / "p.png")
    vectors = float64(model.embedding.positions)[0, 1:]
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in vectors] for a in vectors]
    close(drawn, expected, 1e-12)
    assert is_picture(tmp_path / "p.png")


# ---- alignment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["bahdanau", "luong"])
def test_alignment_of_a_given_target(variant: str, tmp_path: Path) -> None:
    model = shared("seq2seq", variant)
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": TARGET}
    drawn = plot.alignment(model, inputs, tmp_path / "a.png", source_labels=list("wxyz"), target_labels=range(4))
    close(drawn, run(model, inputs, output_attentions=True)["cross_attentions"][0][0, :, 1:5], 1e-6)
    close(drawn.sum(axis=-1), np.ones(4))
    assert is_picture(tmp_path / "a.png")


def test_alignment_of_a_transformer_is_the_mean_of_its_last_heads(tmp_path: Path) -> None:
    model = shared("transformer", "marian")
    inputs = {"input_ids": IDS, "decoder_input_ids": TARGET}
    drawn = plot.alignment(model, inputs, tmp_path / "a.png")
    close(drawn, run(model, inputs, output_attentions=True)["cross_attentions"][-1][0].mean(axis=0), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant"), [("seq2seq", "dot"), ("transformer", "original")])
def test_alignment_of_what_the_model_writes(family: str, variant: str, tmp_path: Path) -> None:
    model = shared(family, variant)
    drawn = plot.alignment(model, {"input_ids": IDS, "attention_mask": MASK}, tmp_path / "a.png")
    written = model.generate(IDS[:1], MASK[:1], max_new_tokens=len(drawn))
    assert written.shape == (1, len(drawn) + 1)
    inputs = {"input_ids": IDS[:1], "attention_mask": MASK[:1], "decoder_input_ids": written[:, :-1]}
    scores = run(model, inputs, output_attentions=True)["cross_attentions"][-1][0]
    close(drawn, (scores if scores.ndim == 2 else scores.mean(axis=0))[:, 1:5], 1e-6)


# ---- files, errors, command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["PNG", "svg"])
def test_the_same_bytes_every_time(ending: str, tmp_path: Path) -> None:
    files = [tmp_path / "one" / f"a.{ending}", tmp_path / f"another.{ending}"]
    for file in files:
        plot.position_map(ALiBi(3), file, length=5)
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert b"<dc:date>" not in first
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [f"a.{ending}", f"another.{ending}"]


def test_other_settings_of_matplotlib_stay(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot.position_map(ALiBi(3), tmp_path / "a.svg", length=5)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("path", lambda p: plot.position_map(ALiBi(2), p / "a.jpg")),
        ("path", lambda p: plot.attention_maps(shared("gpt", "gpt2"), IDS, p / "a")),
        ("layer", lambda p: plot.attention_maps(shared("gpt", "gpt2"), IDS, p / "a.png", layer=2)),
        ("layer", lambda p: plot.attention_maps(shared("gpt", "gpt2"), IDS, p / "a.png", layer=True)),
        ("kind", lambda p: plot.attention_maps(shared("gpt", "gpt2"), IDS, p / "a.png", kind="cross")),
        ("labels", lambda p: plot.attention_maps(shared("gpt", "gpt2"), IDS, p / "a.png", labels=["a"])),
        ("labels", lambda p: plot.attention_maps(shared("gpt", "gpt2"), IDS, p / "a.png", labels="abcdef")),
        ("labels", lambda p: plot.attention_maps(shared("seq2seq", "dot"), targeted(), p / "a.png", labels=["a"] * 6)),
        ("model", lambda p: plot.attention_maps(keras.layers.Dense(2), IDS, p / "a.png")),
        ("model", lambda p: plot.attention_maps(shared("seq2seq", "plain"), targeted(), p / "a.png")),
        ("model", lambda p: plot.alignment(shared("seq2seq", "plain"), targeted(), p / "a.png")),
        ("model", lambda p: plot.alignment(shared("gpt", "gpt2"), IDS, p / "a.png")),
        ("model", lambda p: plot.attention_rollout(shared("gpt", "gpt2"), IDS, p / "a.png")),
        ("pixel_values", lambda p: plot.attention_rollout(shared("vit", "dino"), np.ones((20, 20, 2)), p / "a.png")),
        ("pixel_values", lambda p: plot.attention_rollout(shared("vit", "dino"), np.ones((20, 21, 3)), p / "a.png")),
        ("input_ids", lambda p: plot.attention_maps(shared("gpt", "gpt2"), IDS * 50, p / "a.png")),
        ("attention_mask", lambda p: plot.attention_maps(shared("gpt", "gpt2"), unseen(), p / "a.png")),
        ("model_or_layer", lambda p: plot.position_map(shared("gpt", "backbone"), p / "a.png")),
        ("model_or_layer", lambda p: plot.position_map(shared("seq2seq", "dot"), p / "a.png")),
        ("length", lambda p: plot.position_map(LearnedPositions(9, 4), p / "a.png", length=10)),
        ("length", lambda p: plot.position_map(shared("gpt", "llama"), p / "a.png", length=0)),
        ("length", lambda p: plot.position_map(shared("vit", "dino"), p / "a.png", length=4)),
        ("target_labels", lambda p: plot.alignment(shared("seq2seq", "dot"), targeted(), p / "a.png", target_labels=5)),
        ("kind", lambda p: plot.command("heads", shared("gpt", "gpt2"), p / "a.png")),
        ("tokens", lambda p: plot.command("attention", shared("gpt", "gpt2"), p / "a.png", tokens=[])),
        ("image", lambda p: plot.command("attention", shared("gpt", "gpt2"), p / "a.png", image="x.png")),
        ("image", lambda p: plot.command("rollout", shared("vit", "dino"), p / "a.png", image=__file__)),
        ("layer", lambda p: plot.command("positions", shared("gpt", "gpt2"), p / "a.png", layer=0)),
    ],
)
def test_mistakes_are_told_and_leave_no_file(argument: str, call: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: got .*; accepted: "):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def targeted() -> dict[str, np.ndarray]:
    return {"input_ids": IDS, "decoder_input_ids": TARGET}


def unseen() -> dict[str, np.ndarray]:
    return {"input_ids": IDS, "attention_mask": MASK * 0}


def test_a_failure_while_drawing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def broken(self: Any, file: Any, **options: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    old = tmp_path / "a.png"
    old.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        plot.position_map(ALiBi(2), old)
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_importing_it_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, attention_zoo.plot; print(sorted({'keras', 'matplotlib', 'PIL', 'tensorflow'} & set(sys.modules)))"
    )
    assert python(code).strip() == "[]"


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"attention-zoo\[demo\]"):
        plot.position_map(ALiBi(2), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("kind", "family", "variant"),
    [
        ("attention", "gpt", "gpt2"),
        ("attention", "vit", "dino"),
        ("positions", "gpt", "relative"),
        ("alignment", "seq2seq", "dot"),
    ],
)
def test_the_command_makes_its_own_inputs(kind: str, family: str, variant: str, tmp_path: Path) -> None:
    model = shared(family, variant)
    drawn = plot.command(kind, model, str(tmp_path / "a.png"))
    assert np.isfinite(drawn).all()
    assert drawn.std() > 0
    assert is_picture(tmp_path / "a.png")


def test_the_command_takes_inputs(tmp_path: Path) -> None:
    gpt, vit = shared("gpt", "gpt2"), shared("vit", "classifier")
    given = plot.command("attention", gpt, tmp_path / "a.png", tokens=IDS[0].tolist(), layer=1)
    close(given[0], run(gpt, {"input_ids": IDS}, output_attentions=True)["attentions"][1][0], 1e-6)
    assert plot.command("positions", gpt, tmp_path / "a.png", length=7).shape == (7, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype("uint8")  # in the model's size: not resized
    Image.fromarray(pixels).save(tmp_path / "image.png")
    given = plot.command("rollout", vit, tmp_path / "a.png", image=tmp_path / "image.png")
    close(given, plot.attention_rollout(vit, pixels / 127.5 - 1, tmp_path / "b.png"), 1e-7)
    with pytest.raises(ValueError, match=r"^image: got .*nowhere.png', which is not a file; accepted: "):
        plot.command("rollout", vit, tmp_path / "c.png", image=tmp_path / "nowhere.png")
