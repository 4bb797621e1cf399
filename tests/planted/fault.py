"""What a planted fault is, and the models that faults are planted in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from attention_zoo.text.tokenizer import Tokenizer
from helpers import randomise, tiny

FORMATS = {
    "ONNX": "onnx",
    "ONNX Runtime": "onnxruntime",
    "GenAI": "genai",
    "TFLite": "tflite",
    "LiteRT-LM": "litertlm",
}
ALL = tuple(FORMATS.values())
NOT_ROTARY = ("onnx", "genai", "tflite", "litertlm")  # ONNX Runtime's own attention needs rotary positions
PRECISIONS = ("fp32", "fp16", "int8", "int4")

SPECIAL = ["<s>", "</s>", "<|user|>", "<|model|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] + '</s>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)


def tokenizer(template: str = TEMPLATE) -> Tokenizer:
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    backend = Backend(models.BPE({token: i for i, token in enumerate([*SPECIAL, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend, bos_token="<s>", eos_token="</s>", chat_template=template)


def decoder(variant: str = "llama", **fields: Any) -> Any:
    """Return a decoder whose table is large enough to be quantized, and whose heads ONNX Runtime's operator accepts."""
    sizes = {"vocab_size": 101, "hidden_dim": 64, "max_length": 80, "intermediate_dim": 96, "eos_token_id": 1}
    if variant == "llama":
        sizes["head_dim"] = 16
    if variant == "alibi":
        sizes["num_heads"] = 4
    model = tiny("gpt", variant, **{**sizes, **fields})
    model.tokenizer = tokenizer()
    return model


def gpt2() -> Any:
    return decoder("gpt2")


def alibi() -> Any:
    return decoder("alibi")


def with_window() -> Any:
    return decoder(sliding_window=50)


def t5() -> Any:
    return tiny("transformer", "t5", max_length=80, max_distance=60)


def transformer() -> Any:
    return tiny("transformer", "original")


def bert() -> Any:
    return tiny("bert", "backbone")


def fresh_classifier() -> Any:
    """Return an untrained classifier, whose logits are below 0.04."""
    from attention_zoo.zoo.bert import BERT

    small = {"vocab_size": 89, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 40}
    return BERT(head="sequence_classification", num_classes=3, **small)


class SoftCap:
    """A GPT whose overridden ``call`` caps the logits."""

    def __new__(cls) -> Any:
        from attention_zoo.zoo.gpt import GPT

        class Capped(GPT):
            def call(self, *args: Any, **kwargs: Any) -> Any:
                return 3.0 * keras.ops.tanh(super().call(*args, **kwargs) / 3.0)

        return randomise(Capped(GPT.config_class.from_dict(GPT.tiny()["llama"])))


@dataclass(frozen=True)
class Fault:
    """One fault. Exactly one of the four ways to plant it is given.

    Attributes:
        model: returns a new model.
        exporting: returns a context manager, for a model, in which its export has the fault.
        changing: changes an exported ONNX or TFLite file of a model.
        folder: changes a folder for ONNX Runtime GenAI.
        bundle: changes the ``Contents`` of a LiteRT-LM bundle.
        formats: the formats in which the fault is possible.
        precisions: the precisions in which it is.
        cache: whether an ONNX or TFLite file has a key/value cache.
        place: names of the layer, weight or output that is wrong, one of which ``verify`` should mention; () for a
            fault that has no place in the model.
    """

    model: Callable[[], Any] = decoder
    exporting: Callable[[Any], Any] | None = None
    changing: Callable[[Any, Path], None] | None = None
    folder: Callable[[Path], Any] | None = None
    bundle: Callable[[Any], Any] | None = None
    formats: tuple[str, ...] = ALL
    precisions: tuple[str, ...] = PRECISIONS
    cache: bool = True
    place: tuple[str, ...] = ()
