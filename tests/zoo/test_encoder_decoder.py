"""Transformer and Seq2Seq as whole models: compared with float64 NumPy and KerasHub, and trained on small tasks."""

from __future__ import annotations

import functools
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

import attention_zoo as az
from attention_zoo.layers.cache import causal_context
from attention_zoo.zoo import Seq2Seq, Seq2SeqConfig, Transformer, TransformerConfig
from attention_zoo.zoo.presets import PRESETS
from helpers import VARIANTS, close, every_variant, numpy, randomise, run, shared, tiny
from keras_weights import Copier
from reference_models import Weights, seq2seq, transformer

TOLERANCE = 2e-5
SOURCES, TARGETS = 9, 7
KEPT = ((9, 4, 1), (7, 3, 1))  # tokens without padding in three sources and in their targets
SIDES = ("none", "right", "left", "interior")
OTHERS = ("umt5", "encoder", "classifier")  # another vocabulary for the target, or no target
BOTH = [pair for pair in VARIANTS if pair[0] in ("transformer", "seq2seq") and pair[1] not in OTHERS]
# There is no tiny variant with pre-norm, or with a decoder deeper than its encoder: this one changes the original.
PRE_NORM: dict[str, Any] = {"norm_first": True, "activation": "gelu", "num_layers": 1, "num_decoder_layers": 2}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "original": ("original", {}),
    "marian": ("marian", {"norm_epsilon": 1e-5}),
    "t5": ("t5", {}),
    "rotary": ("rotary", {}),
    "pre_norm": ("original", PRE_NORM),
    "uneven": ("uneven", {}),
}


def mask_of(side: str, kept: tuple[int, ...], length: int) -> np.ndarray:
    mask = np.zeros((len(kept), length), "int32")
    for row, count in enumerate(kept):
        slots = {
            "none": range(length),
            "right": range(count),
            "left": range(length - count, length),
            "interior": np.unique(np.linspace(0, length - 1, count).astype(int)),
        }[side]
        mask[row, list(slots)] = 1
    return mask


def compare(actual: dict[str, Any], expected: dict[str, Any], valid: dict[str, np.ndarray]) -> float:
    """Return the greatest difference where `valid` is true, relative to max(1, the greatest absolute value)."""
    assert set(actual) == set(valid)
    worst = 0.0
    for name, keep in valid.items():
        ours, theirs = (x[name] if isinstance(x[name], list) else [x[name]] for x in (actual, expected))
        assert len(ours) == len(theirs)
        for layer, pair in enumerate(zip(ours, theirs, strict=True)):
            assert pair[0].shape == pair[1].shape
            # Attention weights are (B, H, T, S).
            one, other = (np.moveaxis(x, 1, 2)[keep] if x.ndim == 4 else x[keep] for x in pair)
            scale = max(1.0, float(np.abs(other).max()))
            close(one / scale, other / scale, atol=TOLERANCE, what=f"{name}.{layer}")
            worst = max(worst, float(np.abs(one - other).max()) / scale)
    return worst


def against_reference(
    model: Any, ids: np.ndarray, mask: np.ndarray, decoder_ids: np.ndarray, decoder_mask: np.ndarray, given: Any
) -> float:
    weights = Weights.of(model)
    expected = transformer(weights, model.config, ids, mask, decoder_ids, decoder_mask)
    assert not weights.unread()
    assert np.std(expected["logits"]) > 0.1
    actual = run(model, given, output_hidden_states=True, output_attentions=True)
    source, target = mask.astype(bool), decoder_mask.astype(bool)
    of_source = dict.fromkeys(("encoder_hidden_states", "encoder_attentions"), source)
    of_target = ("logits", "decoder_hidden_states", "decoder_attentions", "cross_attentions")
    return compare(actual, expected, {**of_source, **dict.fromkeys(of_target, target)})


@pytest.mark.parametrize(
    ("side", "decoder_side"), [*zip(SIDES, ("none", "right", "left", "right"), strict=True), ("none", "left")]
)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_against_float64(name: str, side: str, decoder_side: str, rng: Any, record_property: Any) -> None:
    variant, overrides = TRANSFORMERS[name]
    model = tiny("transformer", variant, **overrides) if overrides else shared("transformer", variant)
    ids, decoder_ids = (rng.integers(0, 61, (3, n)).astype("int32") for n in (SOURCES, TARGETS))
    mask, decoder_mask = mask_of(side, KEPT[0], SOURCES), mask_of(decoder_side, KEPT[1], TARGETS)
    given = {"input_ids": ids, "decoder_input_ids": decoder_ids}
    given |= {} if side == "none" else {"attention_mask": mask}
    given |= {} if decoder_side == "none" else {"decoder_attention_mask": decoder_mask}
    worst = against_reference(model, ids, mask, decoder_ids, decoder_mask, given)
    record_property("greatest difference", worst)


@pytest.mark.parametrize(("sources", "targets"), [pytest.param(1, 1, marks=pytest.mark.slow), (1, 40), (40, 33)])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_of_other_lengths(name: str, sources: int, targets: int, rng: Any, record_property: Any) -> None:
    """Lengths range from one token to the maximum length."""
    variant, overrides = TRANSFORMERS[name]
    model = tiny("transformer", variant, **overrides)
    ids, decoder_ids = (rng.integers(0, 61, (1, n)).astype("int32") for n in (sources, targets))
    given = {"input_ids": ids, "decoder_input_ids": decoder_ids}
    worst = against_reference(model, ids, np.ones_like(ids), decoder_ids, np.ones_like(decoder_ids), given)
    record_property("greatest difference", worst)


@pytest.mark.parametrize("side", SIDES)
@every_variant([pair for pair in BOTH if pair[0] == "seq2seq"])
def test_seq2seq_against_float64(family: str, variant: str, side: str, rng: Any, record_property: Any) -> None:
    model = shared(family, variant)
    weights, mask = Weights.of(model), mask_of(side, KEPT[0], SOURCES)
    ids, decoder_ids = (rng.integers(0, 61, (3, n)).astype("int32") for n in (SOURCES, TARGETS))
    expected = seq2seq(weights, model.config, ids, mask, decoder_ids)
    assert not weights.unread()
    assert np.std(expected["logits"]) > 0.1
    given = {"input_ids": ids, "decoder_input_ids": decoder_ids}
    given |= {} if side == "none" else {"attention_mask": mask}
    actual = run(model, given, output_hidden_states=True, output_attentions=True)
    everywhere = np.ones((3, TARGETS), bool)
    valid = {"encoder_hidden_states": mask.astype(bool)}
    valid |= dict.fromkeys(set(expected) - set(valid), everywhere)
    record_property("greatest difference", compare(actual, expected, valid))


def rows_and_mask(rng: np.random.Generator, vocab_size: int, lengths: tuple[int, ...]) -> tuple[Any, Any]:
    """Return rows of different lengths, padded on the right with random tokens, and their mask."""
    ids = rng.integers(0, vocab_size, (len(lengths), max(lengths))).astype("int32")
    return ids, (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype("int32")


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [((11, 4, 1), (8, 5, 2)), ((150, 70), (140, 90))], ids=["short", "long"])
def test_t5(lengths: Any, rng: Any, record_property: Any) -> None:
    """Compare with KerasHub's T5 v1.1; the longer rows reach every bucket of relative positions."""
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 52}
    gelu = functools.partial(keras.activations.gelu, approximate=True)
    theirs = keras_hub.models.T5Backbone(61, key_value_dim=6, activation=gelu, tie_embedding_weights=False, **sizes)
    randomise(theirs)
    for layer in theirs.layers:  # T5's own normalization layers name their scale "weight"
        for variable in layer.weights:
            if variable.path.endswith("/weight"):
                variable.assign(1 + rng.normal(0, 0.2, variable.shape))
    fields = {**Transformer.tiny()["t5"], **sizes, "head_dim": 6, "attention_scale": 1.0, "max_length": 200}
    ours: Any = Transformer(fields)
    copy = Copier(ours, theirs)

    def attention(block: Any, other: Any) -> None:
        for name in ("query", "key", "value", "output"):
            copy.dense(getattr(block, f"{name}_dense"), getattr(other, f"{name}_projector"))

    copy(ours.embedding.embeddings, theirs.token_embedding.embeddings)
    for side in ("encoder", "decoder"):
        stack = getattr(theirs, f"{side}_transformer_layers")
        bias = stack[0].self_attention.relative_attention_bias
        copy(getattr(ours, f"{side}_positions").embeddings, bias)
        for block, other in zip(getattr(ours, f"{side}_blocks"), stack, strict=True):
            attention(block.attention, other.self_attention)
            copy(block.attention_norm.scale, other.self_attention_layer_norm.weight)
            if side == "decoder":
                attention(block.cross_attention, other.cross_attention)
                copy(block.cross_attention_norm.scale, other.cross_attention_layer_norm.weight)
            copy.dense(block.feedforward.gate, other.input_projector)
            copy.dense(block.feedforward.up, other.gate_projector)
            copy.dense(block.feedforward.down, other.output_projector)
            copy(block.feedforward_norm.scale, other.layer_norm.weight)
        copy(getattr(ours, f"{side}_norm").scale, getattr(theirs, f"{side}_layer_norm").weight)
    copy(ours.lm_head.kernel, theirs.token_embedding.reverse_embeddings)
    copy.finish()

    (ids, mask), (decoder_ids, decoder_mask) = (rows_and_mask(rng, 61, each) for each in lengths)
    source, target = mask.astype(bool), decoder_mask.astype(bool)
    given = {"encoder_token_ids": ids, "encoder_padding_mask": mask}
    expected = theirs({**given, "decoder_token_ids": decoder_ids, "decoder_padding_mask": decoder_mask})
    encoded = ours.encode(ids, mask)
    context = causal_context(decoder_ids.shape[1], keras.ops.convert_to_tensor(decoder_mask))
    decoded = ours.decode(decoder_ids, context, ours.project_encoded(encoded), mask)
    states = expected["decoder_sequence_output"]
    pairs = [
        (numpy(encoded)[source], numpy(expected["encoder_sequence_output"])[source]),
        (numpy(decoded)[target], numpy(states)[target]),
        (numpy(ours.head(decoded))[target], numpy(theirs.token_embedding(states, reverse=True))[target]),
    ]
    record_property("greatest difference", float(max(np.abs(np.subtract(*pair)).max() for pair in pairs)))
    for pair in pairs:
        assert np.std(pair[1]) > 0.1
        close(*pair, atol=TOLERANCE)


@pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
def test_keras_hub_blocks(norm_first: bool, rng: Any, record_property: Any) -> None:
    """Compare with the original model assembled from KerasHub's sinusoids, encoders and decoders."""
    lengths = ((11, 4, 1), (8, 5, 2))
    ours = tiny("transformer", "original", norm_first=norm_first, num_decoder_layers=2)
    options = {"num_heads": 4, "normalize_first": norm_first, "layer_norm_epsilon": 1e-6, "activation": "relu"}
    positions = keras_hub.layers.SinePositionEncoding()
    (ids, mask), (decoder_ids, decoder_mask) = (rows_and_mask(rng, 61, each) for each in lengths)

    def embed(ids: np.ndarray) -> Any:
        x = ours.embedding(ids) * 32**0.5
        return x + positions(x)

    def fill(copy: Any, block: Any, other: Any) -> None:
        copy.block(block, other)
        if block.cross_attention is not None:
            copy.attention(block.cross_attention, other._cross_attention_layer)
            copy.norm(block.cross_attention_norm, other._cross_attention_layer_norm)
        copy.finish()

    x = embed(ids)
    for block in ours.encoder_blocks:
        other = keras_hub.layers.TransformerEncoder(52, **options)
        other(x, padding_mask=mask)
        fill(Copier(block, randomise(other)), block, other)
        x = other(x, padding_mask=mask)
    encoded = x = ours.encoder_norm(x) if norm_first else x
    x = embed(decoder_ids)
    masks = {"decoder_padding_mask": decoder_mask, "encoder_padding_mask": mask}
    for block in ours.decoder_blocks:
        other = keras_hub.layers.TransformerDecoder(52, **options)
        other(x, encoded, **masks)
        fill(Copier(block, randomise(other)), block, other)
        x = other(x, encoded, **masks)
    x = ours.decoder_norm(x) if norm_first else x
    valid = decoder_mask.astype(bool)
    expected = (numpy(x) @ numpy(ours.embedding.embeddings).T)[valid]
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder_ids}
    actual = numpy(ours({**inputs, "decoder_attention_mask": decoder_mask}))[valid]
    record_property("greatest difference", float(np.abs(actual - expected).max()))
    assert np.std(expected) > 0.1
    close(actual, expected, atol=TOLERANCE)


def ragged_task(model: Any, rng: np.random.Generator, size: int = 6) -> tuple[dict[str, Any], Any, Any]:
    """Return random data to memorize: inputs, targets, and 1 for each target that is not padding."""
    (ids, mask), (decoder_ids, real) = (
        rows_and_mask(rng, 61, (longest, *rng.integers(2, longest + 1, size - 1))) for longest in (8, 6)
    )
    x = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder_ids, "decoder_attention_mask": real}
    x = {spec.name: x[spec.name] for spec in model.signature.inputs}
    return x, rng.integers(0, 61, decoder_ids.shape).astype("int32"), real.astype("float32")


def loss_of(logits: np.ndarray, targets: np.ndarray, real: np.ndarray) -> float:
    """Compute the mean cross-entropy of the targets that are not padding, in float64."""
    logits = logits.astype("float64") - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return float(((np.log(np.exp(logits).sum(-1)) - chosen) * real).sum() / real.sum())


def crossentropy() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


@pytest.mark.slow
@every_variant(BOTH)
def test_learning_by_heart(family: str, variant: str, rng: Any) -> None:
    """The model memorizes one batch with ``fit``, and targets at padding do not affect the loss."""
    model = tiny(family, variant, dropout=0.0, num_layers=1)
    x, y, real = ragged_task(model, rng)
    first = loss_of(numpy(model(x)), y, real)
    garbage = np.where(real, y, 60 - y)
    model.compile(keras.optimizers.Adam(2e-2), crossentropy(), jit_compile=False)
    options = {"batch_size": len(y), "shuffle": False, "verbose": 0}
    losses = model.fit(x, garbage, sample_weight=real, **options).history["loss"]
    assert losses == [pytest.approx(first, rel=1e-4)]
    again = {name: np.tile(values, (40, 1)) for name, values in x.items()}
    model.fit(again, np.tile(garbage, (40, 1)), sample_weight=np.tile(real, (40, 1)), **options)
    logits = numpy(model(x))
    assert loss_of(logits, y, real) < 0.1 * first
    assert (logits.argmax(-1) == y)[real.astype(bool)].mean() > 0.95


START, END, LONGEST, WORDS = 1, 2, 5, 12


def copies(rng: np.random.Generator, size: int, side: str = "right") -> tuple[dict[str, Any], Any, Any]:
    """Return sources of up to five words, with the same words and the end token as targets."""
    words = rng.integers(3, WORDS, (size, LONGEST)).astype("int32")
    lengths = rng.integers(1, LONGEST + 1, (size, 1))
    mask = (np.arange(LONGEST) < lengths).astype("int32")
    words = words * mask
    targets = np.concatenate([words, np.zeros((size, 1), "int32")], axis=1)
    targets[np.arange(size), lengths[:, 0]] = END
    decoder_ids = np.concatenate([np.full((size, 1), START, "int32"), targets[:, :-1]], axis=1)
    if side == "left":
        order = np.argsort(mask, axis=1, kind="stable")
        words, mask = (np.take_along_axis(array, order, axis=1) for array in (words, mask))
    x = {"input_ids": words, "attention_mask": mask, "decoder_input_ids": decoder_ids}
    return x, targets, (np.arange(LONGEST + 1) <= lengths).astype("float32")


SMALL = {"vocab_size": WORDS, "max_length": 16, "dropout": 0.0}
LEARNERS: dict[str, tuple[Any, dict[str, Any], int, float]] = {
    "transformer": (
        Transformer,
        {"num_layers": 1, "num_heads": 4, "hidden_dim": 48, "intermediate_dim": 96, "norm_first": True},
        4,
        4e-3,
    ),
    "seq2seq": (Seq2Seq, {"hidden_dim": 64, "embedding_dim": 24, "cell": "gru"}, 4, 1e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_learning_to_copy(name: str, rng: Any, record_property: Any) -> None:
    """Trained with shifted targets, the model copies held-out sources: teacher-forced, greedily and by beam search."""
    cls, fields, epochs, rate = LEARNERS[name]
    model = cls({**SMALL, **fields})
    x, y, real = copies(rng, 4096)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * 64)
    model.compile(keras.optimizers.Adam(schedule), crossentropy(), jit_compile=False)
    model.fit(x, y, sample_weight=real, batch_size=64, epochs=epochs, verbose=0)

    x, y, real = copies(np.random.default_rng(1), 24)
    right = (numpy(model(x)).argmax(-1) == y) | (real == 0)
    accuracy = right[real == 1].mean()
    record_property("token accuracy", float(accuracy))
    assert accuracy > 0.95
    rows = right.all(axis=1)
    assert rows.mean() > 0.9
    padded = copies(np.random.default_rng(1), 24, "left")[0]
    assert not np.array_equal(padded["input_ids"], x["input_ids"])
    for given, beams in ((x, 1), (padded, 1), (x, 3)):
        made = model.generate(given["input_ids"], given["attention_mask"], max_new_tokens=LONGEST + 1, num_beams=beams)
        assert made.shape == (24, 1 + LONGEST + 1) and (made[:, 0] == START).all()
        same = (made[:, 1:] == y).all(axis=1)
        assert same.mean() > 0.9
        # If all teacher-forced predictions of a row are right, greedy decoding generates the same tokens.
        assert beams > 1 or same[rows].all()


def parameters(c: Any) -> int:
    """Return the parameter count of a Transformer with layer norm, biases and one key head per query head."""
    width, heads = c.hidden_dim, c.num_heads * c.head_dim
    attention = 3 * (width * heads + heads) + heads * width + width
    feedforward = 2 * width * c.intermediate_dim + c.intermediate_dim + width
    norm = 2 * width
    encoder = c.num_layers * (attention + feedforward + 2 * norm)
    decoder = c.num_decoder_layers * (2 * attention + feedforward + 3 * norm)
    tables = 1 + (not c.share_embeddings) + (not c.tie_embeddings)
    last = 2 * norm if c.norm_first else 0
    return tables * c.vocab_size * width + encoder + decoder + last + (c.vocab_size if c.use_logits_bias else 0)


def test_parameters() -> None:
    """The formula holds for small models, and gives the counts of the paper's two models."""
    for overrides in (
        {},
        {"norm_first": True, "num_decoder_layers": 3},
        {"share_embeddings": False, "use_logits_bias": True},
        {"tie_embeddings": False, "head_dim": 5},
    ):
        model = tiny("transformer", "original", **overrides)
        assert model.count_params() == parameters(model.config)
    for name, expected in (("transformer-base", 63_082_496), ("transformer-big", 214_245_376)):
        assert parameters(TransformerConfig(**PRESETS[name].config)) == PRESETS[name].parameters == expected


@pytest.mark.parametrize(
    ("family", "variant", "field"),
    [
        *(
            ("transformer", variant, field)
            for variant in ("original", "t5")
            for field in ("dropout", "attention_dropout")
        ),
        *(("seq2seq", variant, "dropout") for variant in ("bahdanau", "luong")),
    ],
)
def test_dropout_is_for_training_only(family: str, variant: str, field: str, rng: Any) -> None:
    rates: dict[str, Any] = {"dropout": 0.0} if family == "seq2seq" else {"dropout": 0.0, "attention_dropout": 0.0}
    plain, model = (tiny(family, variant, **{**rates, field: rate}) for rate in (0.0, 0.3))
    x, _, _ = ragged_task(plain, rng)
    expected = run(plain, x, training=True)["logits"]
    scale = np.abs(expected).max()
    close(run(model, x)["logits"] / scale, expected / scale, atol=1e-6)
    one, other = (run(model, x, training=True)["logits"] for _ in range(2))
    assert np.abs(one - expected).max() > 1e-2 and np.abs(one - other).max() > 1e-2


CONFIGS = {"transformer": (TransformerConfig, Transformer, "original"), "seq2seq": (Seq2SeqConfig, Seq2Seq, "bahdanau")}
SIZES = {
    "transformer": "vocab_size num_layers num_decoder_layers num_heads num_kv_heads head_dim hidden_dim "
    "intermediate_dim max_length",
    "seq2seq": "vocab_size num_layers hidden_dim embedding_dim max_length",
}
TOKENS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
WRONG: list[tuple[str, dict[str, Any]]] = [
    *((family, {name: v}) for family in SIZES for name in SIZES[family].split() for v in (0, -2, 2.5, "8", True)),
    *((family, {name: v}) for family in SIZES for name in TOKENS for v in (-1, 61, 1.0, "1", True)),
    *((family, {"decoder_start_token_id": None}) for family in SIZES),
    *((family, {name: None}) for family in SIZES for name in ("vocab_size", "num_layers", "hidden_dim", "max_length")),
    *(("transformer", {name: v}) for name in ("num_heads", "num_kv_heads") for v in (5, 3)),
    *(("transformer", {name: "batch"}) for name in ("position", "norm", "activation")),
    ("transformer", {"head_dim": 5, "position": "rotary"}),
    ("transformer", {"hidden_dim": 33, "num_heads": 1}),
    *(("transformer", {name: v}) for name in ("dropout", "attention_dropout") for v in (1.0, -0.1, "0")),
    *(("seq2seq", {name: v}) for name, v in (("cell", "rnn"), ("attention", "cosine"), ("hidden_dim", 25))),
    ("seq2seq", {"dropout": 1.0}),
]


@pytest.mark.parametrize(
    ("family", "values"), WRONG, ids=["-".join([f, *map(str, v), *map(str, v.values())]) for f, v in WRONG]
)
def test_configs_that_cannot_be(family: str, values: dict[str, Any]) -> None:
    config, cls, variant = CONFIGS[family]
    with pytest.raises(ValueError, match=rf"^{next(iter(values))}: got .*; accepted"):
        config.from_dict({**cls.tiny()[variant], **values})


def test_defaults() -> None:
    """The defaults are the paper's base model, and omitted sizes are derived from others."""
    c = TransformerConfig()
    assert (c.num_decoder_layers, c.num_kv_heads, c.head_dim, c.intermediate_dim) == (6, 8, 64, 2048)
    c = TransformerConfig(num_layers=2, num_decoder_layers=3, hidden_dim=64, eos_token_id=None)
    assert (c.num_decoder_layers, c.head_dim, c.eos_token_id) == (3, 8, None)
    assert Seq2SeqConfig(hidden_dim=6).embedding_dim == 6
    assert Seq2SeqConfig(hidden_dim=7, bidirectional=False).hidden_dim == 7


def test_families_are_at_the_top() -> None:
    for name in az.zoo.__all__:
        assert getattr(az, name) is getattr(az.zoo, name)
