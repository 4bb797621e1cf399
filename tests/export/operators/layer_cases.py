"""Cases of the layers of Keras with their options, grouped by their inputs.

A case is a function from the inputs of its group to a nested structure of outputs. Several cases of a group become the
outputs of one model, so that many layers cost one export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers as L
from keras import ops

Tensor = Any
BATCH = 3

# The inputs of a group: shape, dtype, and for integers the range of their values. Where the channels come first, no
# layer has as many of them as its result has columns: Keras would add the bias to the columns.
GROUPS: dict[str, dict[str, tuple[tuple[int, ...], Any]]] = {
    "vector": {"x": ((6,), "float32")},
    "pair": {"x": ((4, 5), "float32"), "y": ((4, 5), "float32")},
    "broadcast": {"x": ((4, 5), "float32"), "y": ((1, 5), "float32")},
    "series": {"x": ((7, 4), "float32")},
    "series_first": {"x": ((4, 19), "float32")},
    "masked": {"x": ((7, 4), "float32"), "mask": ((7,), "bool")},
    "steps": {"x": ((5, 4, 3), "float32")},
    "states": {"x": ((6, 4), "float32"), "h": ((5,), "float32"), "c": ((5,), "float32")},
    "image": {"x": ((9, 8, 4), "float32")},
    "image_first": {"x": ((4, 9, 11), "float32")},
    "colors": {"x": ((9, 8, 3), "float32")},
    "colors_first": {"x": ((3, 9, 11), "float32")},
    "volume": {"x": ((5, 6, 7, 2), "float32")},
    "volume_first": {"x": ((2, 5, 6, 11), "float32")},
    "video": {"x": ((4, 6, 5, 2), "float32")},
    "film": {"x": ((3, 4, 4, 4, 2), "float32")},
    "sequence": {"x": ((4, 6, 3), "float32")},
    "attention": {
        "q": ((4, 6), "float32"),
        "k": ((5, 6), "float32"),
        "q_mask": ((4,), "bool"),
        "k_mask": ((5,), "bool"),
        "mask": ((4, 5), "bool"),
    },
    "ids": {"ids": ((5,), (0, 11))},
    "classes": {"ids": ((5,), (0, 11))},
    "category": {"ids": ((1,), (0, 7))},
    "weighted": {"ids": ((5,), (0, 7)), "weights": ((5,), "float32")},
    "numbers": {"ids": ((5,), (-40, 60))},
    "int64": {"ids": ((40,), "int64")},
    "int32": {"ids": ((20,), "int32")},
    "int16": {"ids": ((12,), "int16")},
    "uint8": {"ids": ((5,), "uint8")},
    "crossed": {"a": ((1,), (-40, 60)), "b": ((1,), (-40, 60))},
    "wave": {"x": ((64,), "float32")},
    "wave_channels": {"x": ((64, 1), "float32")},
}


@dataclass(frozen=True)
class Case:
    """A layer with options.

    Attributes:
        name: the layer, then its options.
        group: the name of the inputs in ``GROUPS``.
        function: from the inputs of the group to the outputs.
        fast: whether the fast tests include the case.
    """

    name: str
    group: str
    function: Callable[..., Any]
    fast: bool = False

    @property
    def layer(self) -> str:
        return self.name.partition("-")[0]


CASES: list[Case] = []


def add(group: str, name: str, function: Callable[..., Any], fast: bool = False) -> None:
    CASES.append(Case(f"{name}-{group}", group, function, fast))


def layer(group: str, kind: str, *arguments: Any, fast: bool = False, **options: Any) -> None:
    """Add a case of one layer, which is called with all inputs of the group as Keras' merging layers are."""
    words = [f"{key}={value}" for key, value in options.items()]
    name = "-".join([kind, *map(str, arguments), *words])

    def function(*inputs: Tensor) -> Any:
        made = getattr(L, kind)(*arguments, **options)
        return made(inputs[0] if len(inputs) == 1 else list(inputs))

    add(group, name, function, fast)


def options(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Return all combinations of the values of several options."""
    found: list[dict[str, Any]] = [{}]
    for name, values in choices.items():
        found = [{**before, name: value} for before in found for value in values]
    return found


# ---- activations, normalization, dense layers, merging ---------------------------------------------------------------

ACTIVATIONS = "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid "
ACTIVATIONS += "log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus "
ACTIVATIONS += "sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink"
for kind in ACTIVATIONS.split():
    layer("vector", "Activation", kind, fast=True)
add("vector", "Activation-threshold", lambda x: keras.activations.threshold(x, 0.5, -2.0))
for kind in ("gelu", "softplus", "log_sigmoid", "mish"):
    layer("vector", "Dense", 5, activation=kind, fast=True)
layer("vector", "Dense", 5, use_bias=False)
add("vector", "Activation-glu", keras.activations.glu)
add("vector", "Activation-gelu-exact", lambda x: keras.activations.gelu(x, approximate=False), True)
layer("vector", "ELU", alpha=0.5)
layer("vector", "LeakyReLU", negative_slope=0.2)
layer("vector", "PReLU")
layer("image", "PReLU", shared_axes=[1, 2])
layer("vector", "ReLU", max_value=4, negative_slope=0.1, threshold=0.5)
layer("vector", "ReLU", max_value=6)
layer("vector", "ReLU", threshold=1.0)
layer("vector", "Softmax")
layer("image", "Softmax", axis=1)
layer("image", "Softmax", axis=[1, 2])
add("masked", "Softmax-mask", lambda x, m: L.Softmax(axis=1)(x, mask=ops.expand_dims(m, -1)))
for kind in ("Identity", "ActivityRegularization", "Flatten"):
    layer("series", kind)
for kind in ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise"):
    layer("vector", kind, 0.3)
for rank, group in ((1, "series"), (2, "image"), (3, "volume")):
    layer(group, f"SpatialDropout{rank}D", 0.3)

for group, axis in (("vector", -1), ("series", 1), ("image", 1), ("image", -1), ("image_first", 1), ("volume", -1)):
    layer(group, "BatchNormalization", axis=axis)
layer("image", "BatchNormalization", scale=False, epsilon=1e-5)
layer("image", "BatchNormalization", center=False)
for axis in (-1, 1, (1, 2, 3), [2, 3]):
    layer("image", "LayerNormalization", axis=axis)
layer("series", "LayerNormalization", center=False, scale=False, epsilon=1e-6)
for groups in (2, 4, 1, -1):
    layer("image", "GroupNormalization", groups)
layer("image_first", "GroupNormalization", 2, axis=1)
layer("series", "GroupNormalization", 2, scale=False, center=False)
for axis in (-1, 1, (1, 2)):
    layer("image", "UnitNormalization", axis=axis)
for axis in (-1, (2, 3)):
    layer("image", "RMSNormalization", axis=axis)
add("series", "SpectralNormalization-Dense", L.SpectralNormalization(L.Dense(5)))
add("image", "SpectralNormalization-Conv2D", L.SpectralNormalization(L.Conv2D(3, 3)))

layer("series", "EinsumDense", "abc,cd->abd", output_shape=(None, 5), bias_axes="d", activation="relu")
layer("steps", "EinsumDense", "abcd,cde->abe", output_shape=(None, 5))
layer("series", "EinsumDense", "...x,xy->...y", output_shape=5, bias_axes="y")
layer("series", "EinsumDense", "ab...,bc->ac...", output_shape=(5, 4))
layer("steps", "EinsumDense", "abcd,de->abce", output_shape=(None, 4, 6), bias_axes="ce")

for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
    layer("pair", kind, fast=True)
    layer("broadcast", kind)
for axis in (-1, 1):
    layer("pair", "Concatenate", axis=axis)
for axes, normalize in ((1, False), (2, False), (2, True), ((1, 1), True)):
    layer("pair", "Dot", axes=axes, normalize=normalize)
add(
    "series",
    "Add-residual-of-width-1",
    lambda x: L.Add()([x[..., :1], L.Conv1D(1, 3, padding="same")(x[..., :1])]),
    True,
)

layer("vector", "RepeatVector", 3)
layer("series", "Permute", (2, 1))
layer("image", "Permute", (3, 1, 2))
layer("image", "Reshape", (6, -1))
layer("image", "Flatten", data_format="channels_first")
layer("series", "ZeroPadding1D", (1, 2))
layer("series", "Cropping1D", (1, 2))
layer("series", "UpSampling1D", 2)
for group, data_format in (("image", "channels_last"), ("image_first", "channels_first")):
    layer(group, "ZeroPadding2D", ((1, 2), (0, 3)), data_format=data_format)
    layer(group, "Cropping2D", ((1, 2), (0, 3)), data_format=data_format)
    for interpolation in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"):
        images = group.replace("image_", "colors_")
        layer(images, "UpSampling2D", (2, 3), data_format=data_format, interpolation=interpolation)
for group, data_format in (("volume", "channels_last"), ("volume_first", "channels_first")):
    layer(group, "ZeroPadding3D", ((1, 2), (0, 3), (1, 0)), data_format=data_format)
    layer(group, "Cropping3D", ((1, 2), (0, 3), (1, 0)), data_format=data_format)
    layer(group, "UpSampling3D", (2, 1, 3), data_format=data_format)
add("series", "Lambda-mean", L.Lambda(lambda t: ops.mean(t, axis=1) * 2.0))
add("series", "Masking-LSTM", lambda x: L.LSTM(3)(L.Masking(0.0)(x)))
layer("series", "Masking", 0.5)

# ---- convolutions and pooling ----------------------------------------------------------------------------------------

RANKS = ((1, "series", "series_first"), (2, "image", "image_first"), (3, "volume", "volume_first"))
LAYOUTS = ("channels_last", "channels_first")
for rank, last, first in RANKS:
    for group, data_format in zip((last, first), LAYOUTS, strict=True):
        common: dict[str, Any] = {"data_format": data_format}
        for more in options(padding=["valid", "same"], strides=[1, 2]):
            layer(group, f"Conv{rank}D", 7, 3, **common, **more, fast=group == "image")
            layer(group, f"Conv{rank}DTranspose", 3, 3, **common, **more)
            for kind in ("Max", "Average"):
                layer(group, f"{kind}Pooling{rank}D", 2 if rank < 3 else (2, 3, 2), **common, **more)
        for padding in ("valid", "same"):
            layer(group, f"Conv{rank}D", 7, 2, dilation_rate=2, padding=padding, **common)
            layer(group, f"Conv{rank}D", 4, 3, groups=2, padding=padding, activation="relu", **common)
            layer(group, f"Conv{rank}DTranspose", 3, 2, dilation_rate=2, padding=padding, **common)
            layer(group, f"Conv{rank}DTranspose", 3, 3, strides=2, output_padding=1, padding=padding, **common)
        layer(group, f"Conv{rank}DTranspose", 3, 2, strides=3, padding="same", use_bias=False, **common)
        for kind in ("Max", "Average"):
            layer(group, f"GlobalMaxPooling{rank}D" if kind == "Max" else f"GlobalAveragePooling{rank}D", **common)
            layer(group, f"Global{kind}Pooling{rank}D", keepdims=True, **common)
            layer(group, f"Adaptive{kind}Pooling{rank}D", 3 if rank == 1 else (3, 2, 4)[:rank], **common)
        if rank < 3:
            for more in options(padding=["valid", "same"], strides=[1, 2]):
                layer(group, f"DepthwiseConv{rank}D", 3, depth_multiplier=2, **common, **more)
                layer(group, f"SeparableConv{rank}D", 7, 3, **common, **more)
            layer(group, f"DepthwiseConv{rank}D", 2, dilation_rate=2, padding="same", **common)
            layer(group, f"SeparableConv{rank}D", 7, 2, dilation_rate=2, depth_multiplier=2, **common)
layer("series", "Conv1D", 6, 3, padding="causal", dilation_rate=2)
layer("image", "Conv2D", 6, (3, 1), strides=(2, 1), padding="same", activation="softplus", fast=True)
layer("image", "Conv2DTranspose", 3, (3, 2), strides=(2, 3), padding="valid", activation="tanh")
layer("image", "MaxPooling2D", (3, 2), strides=(2, 1), padding="same")

# ---- recurrent layers ------------------------------------------------------------------------------------------------

for kind in ("LSTM", "GRU", "SimpleRNN"):
    for more in options(return_sequences=[False, True], go_backwards=[False, True]):
        layer("series", kind, 5, **more)
    layer("series", kind, 5, return_state=True, return_sequences=True)
    layer("series", kind, 5, activation="relu")
    layer("series", kind, 5, use_bias=False, unroll=True)
    layer("series", kind, 5, dropout=0.2, recurrent_dropout=0.2)
    for more in options(return_sequences=[False, True], go_backwards=[False, True]):
        made = getattr(L, kind)
        add("masked", f"{kind}-mask-{more}", lambda x, m, made=made, more=more: made(5, **more)(x, mask=m))
    add(
        "masked",
        f"{kind}-zeros",
        lambda x, m, k=kind: getattr(L, k)(5, return_sequences=True, zero_output_for_mask=True)(x, mask=m),
    )
    for merge in ("concat", "sum", "mul", "ave", None):
        add(
            "series",
            f"Bidirectional-{kind}-{merge}",
            lambda x, k=kind, m=merge: L.Bidirectional(getattr(L, k)(4, return_sequences=True), merge_mode=m)(x),
        )
    add("masked", f"Bidirectional-{kind}-mask", lambda x, m, k=kind: L.Bidirectional(getattr(L, k)(4))(x, mask=m))
    add("series", f"RNN-{kind}Cell", lambda x, k=kind: L.RNN(getattr(L, f"{k}Cell")(4), return_sequences=True)(x))
    add(
        "series",
        f"StackedRNNCells-{kind}Cell",
        lambda x, k=kind: L.RNN(L.StackedRNNCells([getattr(L, f"{k}Cell")(n) for n in (4, 3)]), return_state=True)(x),
    )
layer("series", "GRU", 5, reset_after=False)
layer("series", "LSTM", 5, activation="softplus", recurrent_activation="hard_sigmoid")
layer("series", "LSTM", 5, unit_forget_bias=False, recurrent_activation="relu", return_sequences=True)
add("states", "LSTM-initial", lambda x, h, c: L.LSTM(5, return_sequences=True)(x, initial_state=[h, c]))
add("states", "GRU-initial", lambda x, h, c: L.GRU(5, return_state=True)(x, initial_state=h))
add("states", "SimpleRNN-initial", lambda x, h, c: L.SimpleRNN(5)(x, initial_state=h))
add("states", "LSTMCell-step", lambda x, h, c: L.LSTMCell(5)(x[:, 0], [h, c]))
add("states", "GRUCell-step", lambda x, h, c: L.GRUCell(5)(x[:, 0], [h]))
add("states", "SimpleRNNCell-step", lambda x, h, c: L.SimpleRNNCell(5)(x[:, 0], [h]))


@keras.saving.register_keras_serializable(package="tests")
class Decay(L.Layer):
    """A cell whose state decays, and which returns the state and its exponential."""

    state_size = 4

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x: Tensor, states: Any, training: Any = None) -> Any:
        new = 0.5 * states[0] + ops.matmul(x, self.kernel)
        return ops.tanh(new), [new]


add("series", "RNN-own-cell", lambda x: list(L.RNN(Decay(), return_sequences=True, return_state=True)(x)))
add("masked", "RNN-own-cell-mask", lambda x, m: L.RNN(Decay(), return_sequences=True)(x, mask=m))
for rank, group in ((1, "sequence"), (2, "video"), (3, "film")):
    for more in options(return_sequences=[False, True], padding=["same", "valid"]):
        layer(group, f"ConvLSTM{rank}D", 2, 2, **more)
    layer(group, f"ConvLSTM{rank}D", 2, 2, go_backwards=True, return_state=True)
    layer(group, f"ConvLSTM{rank}D", 2, 2, strides=2, dropout=0.2, activation="relu")
for inner in (lambda: L.Dense(3), lambda: L.Conv1D(2, 2), lambda: L.LSTM(3), L.BatchNormalization):
    add("steps", f"TimeDistributed-{type(inner()).__name__}", lambda x, inner=inner: L.TimeDistributed(inner())(x))

# ---- attention and embeddings ----------------------------------------------------------------------------------------

for kind, more in (
    *(("Attention", o) for o in options(use_scale=[False, True], score_mode=["dot", "concat"])),
    *(("AdditiveAttention", o) for o in options(use_scale=[False, True])),
):
    for causal, masked in ((False, False), (False, True), (True, False), (True, True)):

        def attention(
            q: Tensor,
            k: Tensor,
            qm: Tensor,
            km: Tensor,
            m: Tensor,
            kind: str = kind,
            more: Any = more,
            causal: bool = causal,
            masked: bool = masked,
        ) -> Any:
            return getattr(L, kind)(**more)(
                [q, k], mask=[qm, km] if masked else None, use_causal_mask=causal, return_attention_scores=True
            )

        add("attention", f"{kind}-{more}-{causal}-{masked}", attention)


def masks(q_mask: Tensor, k_mask: Tensor, mask: Tensor, which: str) -> dict[str, Tensor]:
    every = {"query_mask": q_mask, "key_mask": k_mask, "attention_mask": mask}
    kept = {"": (), "mask": ("attention_mask",), "keys": ("key_mask",), "all": tuple(every)}[which]
    return {name: every[name] for name in kept}


for words, made in (
    ("MultiHeadAttention-2", lambda: L.MultiHeadAttention(2, 4, value_dim=3, output_shape=5)),
    ("MultiHeadAttention-3-dropout", lambda: L.MultiHeadAttention(3, 4, dropout=0.1)),
    ("GroupQueryAttention", lambda: L.GroupQueryAttention(4, 4, 2)),
):
    for more in (
        {"which": "", "use_causal_mask": False, "return_attention_scores": True},
        {"which": "", "use_causal_mask": True},
        {"which": "mask", "use_causal_mask": False},
        {"which": "keys", "use_causal_mask": False, "return_attention_scores": True},
        {"which": "all", "use_causal_mask": True, "return_attention_scores": True},
        {"which": "all", "use_causal_mask": True},
    ):

        def heads(q: Tensor, k: Tensor, qm: Tensor, km: Tensor, m: Tensor, made: Any = made, more: Any = more) -> Any:
            chosen = {name: value for name, value in more.items() if name != "which"}
            return made()(q, k, **masks(qm, km, m, more["which"]), **chosen)

        label = "-".join(str(value) for value in more.values())
        add("attention", f"{words}-{label}", heads, fast=words == "MultiHeadAttention-2")
add("steps", "MultiHeadAttention-axes", lambda x: L.MultiHeadAttention(2, 4, attention_axes=(2,))(x, x))
add(
    "series",
    "MultiHeadAttention-dropout-no-bias",
    lambda x: L.MultiHeadAttention(2, 4, dropout=0.1, use_bias=False)(x, x),
)
layer("ids", "Embedding", 11, 4)
add("ids", "Embedding-mask-LSTM", lambda i: L.LSTM(3)(L.Embedding(11, 4, mask_zero=True)(i)))
add("ids", "Embedding-mask-average", lambda i: L.GlobalAveragePooling1D()(L.Embedding(11, 4, mask_zero=True)(i)))


def reversible(ids: Tensor) -> Any:
    embedding = L.ReversibleEmbedding(11, 4, tie_weights=True, logit_soft_cap=5.0)
    return embedding(ops.tanh(embedding(ids)), reverse=True)


add("ids", "ReversibleEmbedding-tied", reversible)

# ---- preprocessing ---------------------------------------------------------------------------------------------------

layer("vector", "Rescaling", 1 / 127.5, offset=-1)
layer("image", "Rescaling", [1, 2, 3, 4], offset=[0.5, 0, 1, -1])
layer("vector", "Normalization", mean=2.0, variance=3.0)
layer("image", "Normalization", mean=[1, 2, 3, 4], variance=[4, 3, 2, 1])
layer("vector", "Normalization", mean=[1, 2, 3, 4, 5, 6], variance=[0, 1, 1, 1, 1, 2], invert=True)
for mode in ("int", "one_hot", "multi_hot", "count"):
    layer("vector", "Discretization", bin_boundaries=[-1.0, 0.0, 0.5, 100.0], output_mode=mode, fast=mode == "int")
for mode in ("one_hot", "multi_hot", "count"):
    layer("classes", "CategoryEncoding", 11, output_mode=mode, fast=mode == "count") if mode != "one_hot" else None
    layer("category", "CategoryEncoding", 7, output_mode=mode)
add("weighted", "CategoryEncoding-weights", lambda i, w: L.CategoryEncoding(7, output_mode="count")(i, count_weights=w))
VOCABULARY = [12, -3, 36, 1138, 42]
choices: list[dict[str, Any]] = [
    {},
    {"mask_token": 0},
    {"output_mode": "multi_hot"},
    {"output_mode": "count"},
    {"vocabulary": [*range(60, -41, -1)], "num_oov_indices": 0},
    {"num_oov_indices": 3},
]
for more in choices:
    table: Any = {"vocabulary": VOCABULARY, **more}
    layer("numbers", "IntegerLookup", fast=False, **table)
layer("ids", "IntegerLookup", vocabulary=VOCABULARY, invert=True)
for more in ({}, {"mask_value": 7}, {"salt": 133}, {"output_mode": "multi_hot"}, {"output_mode": "count"}):
    layer("numbers", "Hashing", num_bins=9, fast=False, **more)
layer("numbers", "Hashing", num_bins=9, output_mode="count", sparse=True)
layer("category", "Hashing", num_bins=9, output_mode="one_hot")
for dtype in ("int64", "int32", "int16", "uint8"):
    layer(dtype, "Hashing", num_bins=1000, fast=dtype == "int64")
    layer(dtype, "Hashing", num_bins=1000, salt=[3, 2**63 - 1])
layer("int64", "Hashing", num_bins=2**62 + 12345, mask_value=0)
for mode in ("int", "one_hot"):
    layer("crossed", "HashedCrossing", num_bins=9, output_mode=mode)
for more in options(interpolation=["nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"], antialias=[False, True]):
    layer("colors", "Resizing", 5, 12, **more)
layer("colors", "Resizing", 6, 5, crop_to_aspect_ratio=True)
layer("colors", "Resizing", 6, 5, pad_to_aspect_ratio=True, fill_value=2.0)
layer("colors_first", "Resizing", 6, 5, data_format="channels_first")
layer("colors", "CenterCrop", 5, 4)
layer("colors", "CenterCrop", 12, 13)
for kind, arguments in {
    "RandomBrightness": (0.2,),
    "RandomContrast": (0.2,),
    "RandomCrop": (6, 6),
    "RandomFlip": (),
    "RandomRotation": (0.2,),
    "RandomTranslation": (0.1, 0.1),
    "RandomZoom": (0.2,),
    "RandomShear": (0.2,),
    "RandomHue": (0.2,),
    "RandomSaturation": (0.5,),
    "RandomGrayscale": (),
    "RandomInvert": (),
    "RandomPosterization": (4,),
    "RandomSharpness": (0.5,),
    "RandomColorJitter": (),
    "RandomColorDegeneration": (0.5,),
    "RandomGaussianBlur": (),
    "RandomErasing": (),
    "RandomPerspective": (),
    "RandomElasticTransform": (),
    "AugMix": (),
    "CutMix": (),
    "MixUp": (),
    "RandAugment": (),
    "Solarization": (),
    "AutoContrast": (),
    "ContrastLimitedAdaptiveHistogramEqualization": (),
}.items():
    layer("colors", kind, *arguments)
layer(
    "wave",
    "MelSpectrogram",
    num_mel_bins=6,
    fft_length=32,
    sequence_stride=8,
    sampling_rate=100,
    min_freq=5,
    max_freq=50,
)
for mode in ("log", "magnitude", "psd", "real", "imag", "angle", "stft"):
    layer("wave_channels", "STFTSpectrogram", mode=mode, frame_length=20, frame_step=8, fft_length=32)

# ---- layers without a case, and cases that a format refuses ----------------------------------------------------------

EXEMPT = {
    "FlaxLayer": "is a module of JAX",
    "JaxLayer": "is a function of JAX",
    "TorchModuleWrapper": "is a module of PyTorch",
    "TFSMLayer": "is a SavedModel",
    "InputLayer": "is an input of every model here",
    "InputSpec": "is no layer",
    "Layer": "is the base class",
    "Wrapper": "is a base class",
    "Pipeline": "applies other layers to data",
    "MaxNumBoundingBoxes": "takes bounding boxes",
    "Equalization": "returns its input, which is no output of a Functional model",
    "StringLookup": "takes texts",
    "TextVectorization": "takes texts",
}
# Words in the refusal, by a pattern of the names of the cases.
REFUSED: dict[str, dict[str, str]] = {form: {"sparse=True": "with sparse=True"} for form in ("tflite", "onnx")}
