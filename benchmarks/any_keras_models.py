"""Keras models of every kind, which ``any_keras.py`` and the tests export.

Each builder returns a built model, the sizes that a TFLite file of it requires, and an input signature if the model
does not define one. KerasHub models have tiny sizes, and ``keras.applications`` models their usual sizes. All weights
are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops


@dataclass
class Case:
    """A model to export."""

    model: Any
    sizes: dict[str, Any] = field(default_factory=dict)  # further arguments of ``to_tflite``
    input_signature: Any = None


MODELS: dict[str, Callable[[], Case]] = {}


def model(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register the decorated function in ``MODELS`` as the builder of this model."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        def case() -> Case:
            built = build()
            return built if isinstance(built, Case) else Case(built)

        MODELS[name] = case
        return build

    return register


def build(name: str) -> Case:
    """Build the model of this name with random weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    case = MODELS[name]()
    randomise(case.model)
    return case


def randomise(model: Any) -> None:
    """Replace the constant initial values of biases, scales and statistics by random values near them.

    Variances stay positive, and weights of two or more dimensions keep their random initial values.
    """
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "float" not in str(variable.dtype):
            continue
        value, name = np.asarray(variable), variable.path.rpartition("/")[2]
        if "variance" in name:
            value = rng.uniform(0.5, 2.0, value.shape)
        elif value.ndim < 2:
            value = value + rng.normal(0, 0.1, value.shape)
        variable.assign(value)


TEXT = {"sequence_length": 16}

# ---- Keras' applications, one of each architecture -------------------------------------------------------------------

APPLICATIONS = (
    "Xception",
    "ResNet50",
    "ResNet50V2",
    "InceptionV3",
    "InceptionResNetV2",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "DenseNet121",
    "NASNetMobile",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ConvNeXtTiny",
)
for _name in APPLICATIONS:
    MODELS[_name] = lambda name=_name: Case(
        getattr(keras.applications, name)(weights=None),
        {"image_size": 224} if name == "MobileNetV3Small" else {},  # the only one without a fixed image size
    )
MODELS["VGG16 without its top"] = lambda: Case(
    keras.applications.VGG16(weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3)),
    {"image_size": 224},
)

# ---- KerasHub --------------------------------------------------------------------------------------------------------

SMALL = {"vocabulary_size": 100, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
GROUPED = {
    "vocabulary_size": 100,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 32,
    "intermediate_dim": 64,
}
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertBackbone", {**SMALL, "max_sequence_length": 64}),
    "RoBERTa": ("RobertaBackbone", {**SMALL, "max_sequence_length": 64}),
    "DistilBERT": ("DistilBertBackbone", {**SMALL, "max_sequence_length": 64}),
    "DeBERTaV3": ("DebertaV3Backbone", {**SMALL, "max_sequence_length": 64, "bucket_size": 8}),
    "ALBERT": ("AlbertBackbone", {**SMALL, "embedding_dim": 16, "max_sequence_length": 64}),
    "ELECTRA": (
        "ElectraBackbone",
        {
            "vocab_size": 100,
            **{k: v for k, v in SMALL.items() if k != "vocabulary_size"},
            "embedding_dim": 16,
            "max_sequence_length": 64,
        },
    ),
    "FNet": ("FNetBackbone", {k: v for k, v in SMALL.items() if k != "num_heads"} | {"max_sequence_length": 64}),
    "GPT-2": ("GPT2Backbone", {**SMALL, "max_sequence_length": 64}),
    "GPT-NeoX": ("GPTNeoXBackbone", {**SMALL, "max_sequence_length": 64}),
    "OPT": ("OPTBackbone", {**SMALL, "max_sequence_length": 64}),
    "BLOOM": ("BloomBackbone", SMALL),
    "Falcon": ("FalconBackbone", {**{k: v for k, v in SMALL.items() if k != "num_heads"}, "num_attention_heads": 2}),
    "Llama": ("LlamaBackbone", GROUPED),
    "Mistral": ("MistralBackbone", {**GROUPED, "sliding_window": 8}),
    "Gemma": ("GemmaBackbone", {**GROUPED, "head_dim": 8}),
    "Phi-3": ("Phi3Backbone", GROUPED),
    "Qwen": ("QwenBackbone", GROUPED),
    "T5": ("T5Backbone", SMALL),
    "BART": ("BartBackbone", {**SMALL, "max_sequence_length": 64}),
    "Whisper": ("WhisperBackbone", {**SMALL, "max_encoder_sequence_length": 64, "max_decoder_sequence_length": 32}),
}


def _backbone(name: str) -> Any:
    import keras_hub

    cls, config = BACKBONES[name]
    return getattr(keras_hub.models, cls)(**config)


SEQUENCES = {  # sizes for models with two sequences
    "T5": {"encoder_sequence": 16, "decoder_sequence": 8},
    "BART": {"encoder_sequence": 16, "decoder_sequence": 8},
    "Whisper": {"encoder_features_sequence": 64, "decoder_sequence": 8},
}
for _name in BACKBONES:
    MODELS[f"KerasHub {_name}"] = lambda name=_name: Case(
        _backbone(name), {"sequence_length": SEQUENCES[name]} if name in SEQUENCES else TEXT
    )


@model("KerasHub BertTextClassifier")
def _bert_classifier() -> Case:
    import keras_hub

    return Case(keras_hub.models.BertTextClassifier(_backbone("BERT"), num_classes=3), TEXT)


@model("KerasHub RobertaMaskedLM")
def _roberta_masked_lm() -> Case:
    import keras_hub

    return Case(
        keras_hub.models.RobertaMaskedLM(_backbone("RoBERTa")),
        {"sequence_length": {"sequence": 16, "mask_positions_sequence": 4}},
    )


@model("KerasHub GPT2CausalLM")
def _gpt2_causal_lm() -> Case:
    import keras_hub

    return Case(keras_hub.models.GPT2CausalLM(_backbone("GPT-2")), TEXT)


@model("KerasHub ViTImageClassifier")
def _vit_classifier() -> Case:
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    )
    return Case(keras_hub.models.ViTImageClassifier(backbone, num_classes=5))


@model("KerasHub ResNetImageClassifier")
def _resnet_classifier() -> Case:
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    )
    return Case(keras_hub.models.ResNetImageClassifier(backbone, num_classes=5))


@model("KerasHub MiT (SegFormer's)")
def _mix_transformer() -> Case:
    import keras_hub

    backbone = keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[16, 32],
    )
    return Case(backbone)


# ---- Functional, Sequential and subclassed ---------------------------------------------------------------------------


@model("Sequential, Bidirectional LSTM with masked embedding")
def _bidirectional() -> Case:
    return Case(
        keras.Sequential(
            [
                keras.Input((None,), dtype="int32", name="tokens"),
                L.Embedding(100, 32, mask_zero=True),
                L.Bidirectional(L.LSTM(24, return_sequences=True)),
                L.Bidirectional(L.LSTM(16)),
                L.Dense(3, activation="softmax"),
            ]
        ),
        TEXT,
    )


@model("Sequential, GRU and SimpleRNN")
def _gru() -> Case:
    x = keras.Input((12, 8), name="series")
    y = L.GRU(16, return_sequences=True)(x)
    y = L.SimpleRNN(12)(y)
    return Case(keras.Model(x, L.Dense(1)(y)))


@model("Functional, Conv1D and GRU over a long series")
def _conv1d() -> Case:
    x = keras.Input((None, 6), name="series")
    y = L.Conv1D(16, 5, padding="same", activation="relu")(x)
    y = L.MaxPooling1D(2)(y)
    y = L.GRU(16)(y)
    return Case(keras.Model(x, L.Dense(2)(y)), {"sequence_length": 40})


@model("Functional, Keras' own attention and masks")
def _keras_attention() -> Case:
    x = keras.Input((None,), dtype="int32", name="tokens")
    y = L.Embedding(100, 32, mask_zero=True)(x)
    for _ in range(2):
        y = L.LayerNormalization()(y + L.MultiHeadAttention(4, 8, dropout=0.1)(y, y, use_causal_mask=True))
        y = L.LayerNormalization()(y + L.Dense(32)(L.Dense(64, activation="gelu")(y)))
    y = L.GroupQueryAttention(8, 4, 2)(y, y)
    return Case(keras.Model(x, L.Dense(100, name="scores")(L.RMSNormalization()(y))), TEXT)


@model("Functional, two inputs and two outputs")
def _two_towers() -> Case:
    query, document = (keras.Input((None,), dtype="int32", name=name) for name in ("query", "document"))
    table = L.Embedding(100, 16)
    a, b = (L.GlobalAveragePooling1D()(table(ids)) for ids in (query, document))
    results = {"score": L.Dot(-1)([a, b]), "topic": L.Dense(4, activation="softmax")(a)}
    return Case(
        keras.Model([query, document], results), {"sequence_length": {"query_sequence": 6, "document_sequence": 20}}
    )


@model("Functional, image and numbers in, three out")
def _mixed() -> Case:
    image, numbers = keras.Input((32, 32, 3), name="image"), keras.Input((5,), name="numbers")
    y = L.SeparableConv2D(8, 3, activation="swish")(L.Rescaling(1 / 255)(image))
    y = L.Concatenate()([L.Flatten()(L.AveragePooling2D(4)(y)), L.BatchNormalization()(numbers)])
    outputs = [L.Dense(2, name="box")(y), L.Dense(1, activation="sigmoid", name="object")(y), ops.argmax(y, axis=-1)]
    return Case(keras.Model([image, numbers], outputs))


@model("Functional, U-Net with open image sizes")
def _unet() -> Case:
    image = keras.Input((None, None, 3), name="image")
    down = L.Conv2D(8, 3, padding="same", activation="relu")(image)
    deep = L.Conv2D(16, 3, strides=2, padding="same", activation="relu")(down)
    up = L.Conv2DTranspose(8, 3, strides=2, padding="same")(deep)
    up = L.Concatenate()([down, L.GroupNormalization(4)(up)])
    return Case(keras.Model(image, L.Conv2D(1, 1, activation="sigmoid", name="mask")(up)), {"image_size": (64, 96)})


@model("Functional, upsampling, padding, cropping and pooling")
def _resizing() -> Case:
    image = keras.Input((24, 24, 4), name="image")
    y = L.UpSampling2D(2, interpolation="bilinear")(L.ZeroPadding2D(3)(image))
    y = L.Cropping2D(2)(L.DepthwiseConv2D(3)(y))
    return Case(keras.Model(image, [L.MaxPooling2D(3)(y), L.GlobalMaxPooling2D(name="top")(y)]))


@model("Functional, Conv3D")
def _conv3d() -> Case:
    video = keras.Input((8, 16, 16, 3), name="video")
    y = L.MaxPooling3D(2)(L.Conv3D(6, 3, activation="relu")(video))
    return Case(keras.Model(video, L.Dense(3)(L.GlobalAveragePooling3D()(y))))


@model("Functional, TimeDistributed CNN and LSTM")
def _time_distributed() -> Case:
    video = keras.Input((5, 16, 16, 3), name="video")
    frame = keras.Sequential([L.Conv2D(6, 3, activation="elu"), L.GlobalAveragePooling2D()])
    y = L.LSTM(8, return_sequences=True)(L.TimeDistributed(frame)(video))
    return Case(keras.Model(video, L.Dense(2)(y)))


@keras.saving.register_keras_serializable(package="any_keras")
class Recommender(keras.Model):
    """A model that is called with a dict and returns a nested dict."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.users, self.items = L.Embedding(50, 8), L.Embedding(80, 8)
        self.head = keras.Sequential([L.Dense(16, activation="leaky_relu"), L.Dropout(0.5), L.Dense(1)])

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        user, item = self.users(inputs["user"]), self.items(inputs["item"])
        rating = self.head(ops.concatenate([user, item, inputs["context"]], axis=-1), training=training)
        return {"rating": rating, "vectors": {"user": user, "item": item}}


@model("Subclassed, dict in and nested dict out")
def _recommender() -> Case:
    recommender = Recommender(name="recommender")
    recommender({"user": np.ones((2,), "int32"), "item": np.ones((2,), "int32"), "context": np.ones((2, 3), "float32")})
    return Case(recommender)


@keras.saving.register_keras_serializable(package="any_keras")
class Translator(keras.Model):
    """A model with two positional arguments, and attention from the second to the first."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table, self.encoder = L.Embedding(60, 24, mask_zero=True), L.GRU(24, return_sequences=True)
        self.decoder = L.LSTM(24, return_sequences=True)
        self.attention, self.head = L.AdditiveAttention(), L.Dense(60)

    def call(self, source: Any, target: Any, training: bool = False) -> Any:
        memory = self.encoder(self.table(source))
        states = self.decoder(self.table(target))
        return self.head(states + self.attention([states, memory]))


@model("Subclassed, two arguments, recurrent with attention")
def _translator() -> Case:
    translator = Translator(name="translator")
    translator(np.ones((2, 6), "int32"), np.ones((2, 5), "int32"))
    signature = {name: keras.InputSpec(shape=(None, None), dtype="int32") for name in ("source", "target")}
    return Case(translator, {"sequence_length": {"source_sequence": 9, "target_sequence": 7}}, signature)


# ---- with layers and models of this package --------------------------------------------------------------------------


@model("Functional over our BERT")
def _over_bert() -> Case:
    import attention_zoo as az

    bert = az.create(
        "bert-base", vocab_size=100, num_layers=2, num_heads=2, hidden_dim=32, intermediate_dim=64, max_length=64
    )
    ids, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("input_ids", "attention_mask"))
    hidden = bert({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    return Case(keras.Model([ids, mask], L.Dense(3, name="sentiment")(hidden[:, 0])), TEXT)


@model("Functional of our attention and blocks, and Keras' layers")
def _our_layers() -> Case:
    from attention_zoo import layers

    ids = keras.Input((None,), dtype="int32", name="tokens")
    y = L.Embedding(100, 32)(ids)
    y = y + layers.MultiHeadAttention(num_heads=4)(y)
    y = layers.LayerNormalization(epsilon=1e-6)(y)
    y = y + layers.FeedForward(64)(y)
    return Case(keras.Model(ids, L.Dense(100, name="scores")(y)), TEXT)


@model("Sequential over our ViT")
def _over_vit() -> Case:
    import attention_zoo as az

    vit = az.create(
        "vit-tiny-16", image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, intermediate_dim=64
    )
    return Case(keras.Sequential([keras.Input((32, 32, 3), name="pixel_values"), vit, L.Dense(4, name="label")]))
