"""Whisper: speech to text with the encoder-decoder of ``Transformer`` (Radford et al. 2022, arXiv:2212.04356).

The encoder reads the log-mel features of 30 seconds of audio, which ``layers.LogMelSpectrogram`` computes. Two
convolutions along time, of which the second one halves the length, take the place of token embeddings, and sinusoids
are added. The decoder has learned positions, and its embedding table is also the output projection. All blocks are
pre-norm with GELU, and keys have no bias. The first tokens of a target are the start token, the language, the task and
"no timestamps"; ``generate`` finds them in the generation config.

    input_features (batch, frames, num_mel_bins), where frames is 2 · max_source_length
    decoder_input_ids, decoder_attention_mask: (batch, target), the target shifted right, after a start token
    -> logits (batch, target, vocab_size)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
from keras import ops

from ...generation.search import GenerateOptions, generate
from ...layers.audio import Sinusoids, TimeConvolution
from ...layers.feedforward import ACTIVATIONS
from ...layers.position import LearnedPositions
from ...signature import Dim, Signature, TensorSpec
from ..base import Intermediates, Tensor, build_each
from ..config import Config, choice, rate, size, token
from ..registry import register
from ..transformer.config import TransformerConfig
from ..transformer.model import Transformer


@dataclass(frozen=True)
class WhisperConfig(TransformerConfig):
    """Config of ``Whisper``. The defaults are those of whisper-tiny. ``TransformerConfig`` documents the other fields.

    Attributes:
        num_mel_bins: number of features of a frame.
        max_source_length: length of the encoder's output, half of the number of frames; every source has it.
        max_length: maximum length of the target.
        use_key_bias: whether the projections of the keys have biases.
    """

    vocab_size: int = size(51_865)
    num_layers: int = size(4)
    num_heads: int = size(6)
    hidden_dim: int = size(384)
    max_length: int = size(448)
    num_mel_bins: int = size(80)
    max_source_length: int = size(1500)
    position: str = choice("learned", ("learned",))
    numbering: str = choice("columns", ("columns",))
    activation: str = choice("gelu", ACTIVATIONS)
    norm_epsilon: float = 1e-5
    norm_first: bool = True
    use_key_bias: bool = False
    scale_embeddings: bool = choice(False, (False,))  # transformers ignores the entry `scale_embedding`
    dropout: float = rate(0.0)
    head: str | None = choice("seq2seq_lm", ("seq2seq_lm",))
    decoder_start_token_id: int = token(50_257)
    eos_token_id: int | None = token(50_256)
    pad_token_id: int | None = token(50_256)

    def least_parameters(self) -> int:
        return super().least_parameters() + self.hidden_dim * (self.max_source_length + 3 * self.num_mel_bins)


@register
class Whisper(Transformer):
    """A speech-to-text model: ``Whisper(num_layers=2)``, ``Whisper(config)`` or ``az.load(folder)``.

    The module docstring lists the inputs and outputs; see also ``Transformer``.
    """

    family: ClassVar[str] = "whisper"
    tasks: ClassVar[Mapping[str | None, str]] = {"seq2seq_lm": "automatic-speech-recognition"}
    config_class: ClassVar[type[Config]] = WhisperConfig

    def build_layers(self) -> None:
        super().build_layers()
        width = self.config.hidden_dim
        self.stem = [
            TimeConvolution(width, stride=i + 1, name=f"convolution_{i}", dtype=self.dtype_policy) for i in range(2)
        ]

    def _position_layers(self, stack: str, blocks: int, **options: Any) -> tuple[Any, list[Any]]:
        if stack == "decoder":
            return super()._position_layers(stack, blocks, **options)
        table: dict[str, Any] = {"embeddings_initializer": Sinusoids(), "trainable": False, "dtype": self.dtype_policy}
        c = self.config
        return LearnedPositions(c.max_source_length, c.hidden_dim, name="encoder_positions", **table), []

    def build(self, input_shape: Any = None) -> None:
        build_each((None, None, self.config.num_mel_bins), self.stem[0])
        build_each((None, None, self.config.hidden_dim), self.stem[1])
        super().build(input_shape)

    def encode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Return the encoder's hidden states, (batch, max_source_length, hidden_dim).

        Args:
            ids: the features, (batch, frames, num_mel_bins).
            mask: unused; silence is not masked.
            intermediates, training: as in ``Transformer``.
        """
        x, act = ops.cast(ids, self.compute_dtype), ACTIVATIONS["gelu"]
        for convolution in self.stem:
            x = act(convolution(x))  # (B, T, D)
        x = x + ops.cast(self.encoder_positions.first(self.config.max_source_length), x.dtype)
        x = self.dropout(x, training=training)
        x = self.run_blocks(self.encoder_blocks, x, intermediates or Intermediates(), training=training)
        return self.encoder_norm(x)

    @property
    def signature(self) -> Signature:
        c, target = self.config, ("batch", "target")
        features = ("batch", 2 * c.max_source_length, c.num_mel_bins)
        return Signature(
            inputs=(
                TensorSpec("input_features", "float32", features),
                TensorSpec("decoder_input_ids", "int32", target, below=c.vocab_size),
                TensorSpec("decoder_attention_mask", "int32", target, below=2, optional=True, fill=1),
            ),
            outputs=(TensorSpec("logits", "float32", (*target, c.vocab_size)),),
            limits={"target": c.max_length},
            defaults={"target": min(128, c.max_length)},
        )

    @property
    def source_specs(self) -> tuple[TensorSpec, ...]:
        return self.signature.inputs[:1]

    @property
    def source_length(self) -> Dim:
        return self.config.max_source_length

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]) -> np.ndarray:
        """Generate the text of every row of features; see ``generation.search.generate`` for all options.

        Args:
            input_ids: the features (batch, frames, num_mel_bins), or a mapping with "input_features".
            attention_mask: unused, as the encoder reads silence too.
            options: options of ``generation.search.generate``, such as `language` and `task`.

        Returns:
            (batch, first + new) int64 ids, which begin with the start token, the language and the task.

        Raises:
            ValueError: an option or input that is not accepted, or too many tokens.
        """
        return generate(self.decoder(), input_ids, attention_mask, **options)

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {"vocab_size": 61, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 40}
        ids = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        short = {**small, **ids, "num_mel_bins": 10, "max_source_length": 12}
        return {"whisper": short, "uneven": {**short, "num_decoder_layers": 1, "num_decoder_heads": 2}}
