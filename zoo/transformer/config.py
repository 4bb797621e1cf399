"""The config of ``Transformer``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...layers.core import NORMALIZATIONS
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.position import check_position
from ..config import Config, choice, flag, rate, size, token

HEADS = ("seq2seq_lm", "sequence_classification", None)
NUMBERINGS = ("mask", "columns", "tokens")
BIASED = ("relative", "alibi")


def _decodes(config: Any) -> bool:
    """Return whether a model with this config has a decoder."""
    return config.head is not None


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Config of ``Transformer``. The defaults are the paper's base model. ``GPTConfig`` documents the other fields.

    Attributes:
        num_layers, num_decoder_layers: number of blocks of the encoder and of the decoder. Default of the latter:
            `num_layers`.
        num_decoder_heads, decoder_intermediate_dim: sizes of the decoder. Default: those of the encoder.
        num_decoder_kv_heads, decoder_head_dim: sizes of the decoder. Default: those of the encoder if both have the
            same number of heads; otherwise `num_decoder_heads`, and `hidden_dim` / `num_decoder_heads`.
        vocab_size, decoder_vocab_size: vocabulary sizes of source and target. They may differ if the two have
            separate tables.
        max_length: maximum length of the source and of the target.
        position_offset: number of the first position, such as 2 in BART, whose position tables have two more rows.
        numbering: what positions count: "mask", the tokens that the mask keeps; "columns", all tokens with padding; or
            "tokens", the tokens other than `pad_token_id`, which itself has no position.
        num_buckets, max_distance: options of relative positions; see ``RelativePositionBias``.
        share_position_bias: whether all blocks of a stack have the same relative position bias, or each its own.
        embedding_norm: whether the sum of embeddings and positions is normalized.
        norm_before_positions: whether the decoder normalizes its embeddings before it adds positions.
        norm_first: whether blocks normalize the input of each branch (pre-norm) instead of the sum with the residual;
            each stack then has a final normalization.
        attention_scale: factor on the attention scores. Default: head_dim^-1/2.
        scale_embeddings: whether to multiply the embeddings by sqrt(hidden_dim).
        share_embeddings: whether source and target have the same embedding table.
        tie_embeddings: whether the target's embedding table is also the output projection.
        scale_outputs: whether to multiply the decoder's hidden states by hidden_dim^-1/2 before the output projection,
            as in T5 1.0.
        use_logits_bias: whether the logits have a bias, as in Marian.
        head: one of ``HEADS``; see the module docstring.
        num_classes: number of classes of the classification head.
        decoder_start_token_id, eos_token_id, pad_token_id: the tokens that begin and end a target, and pad it.
    """

    vocab_size: int = size(37_000)
    decoder_vocab_size: int | None = size(None, derived=lambda c: c.vocab_size, used=_decodes)
    num_layers: int = size(6)
    num_decoder_layers: int | None = size(None, derived=lambda c: c.num_layers, used=_decodes)
    num_heads: int = size(8)
    num_decoder_heads: int | None = size(None, derived=lambda c: c.num_heads, used=_decodes)
    num_kv_heads: int | None = size(None, derived=lambda c: c.num_heads)
    num_decoder_kv_heads: int | None = size(
        None,
        derived=lambda c: c.num_kv_heads if c.num_decoder_heads == c.num_heads else c.num_decoder_heads,
        used=_decodes,
    )
    head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
    decoder_head_dim: int | None = size(
        None,
        derived=lambda c: (
            c.head_dim if c.num_decoder_heads == c.num_heads else c.quotient("hidden_dim", "num_decoder_heads")
        ),
        used=_decodes,
    )
    hidden_dim: int = size(512)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    decoder_intermediate_dim: int | None = size(None, derived=lambda c: c.intermediate_dim, used=_decodes)
    max_length: int = size(512)
    position: str = "sinusoidal"
    position_offset: int = size(0, least=0)
    numbering: str = choice("mask", NUMBERINGS)
    num_buckets: int = size(32)
    max_distance: int = size(128)
    share_position_bias: bool = flag(True, used=lambda c: c.position in BIASED)
    activation: str = choice("relu", (*ACTIVATIONS, *GATED))
    norm: str = choice("layer_norm", NORMALIZATIONS)
    norm_epsilon: float = 1e-6
    norm_first: bool = False
    embedding_norm: bool = False
    norm_before_positions: bool = flag(False, used=lambda c: c.embedding_norm and _decodes(c))
    use_bias: bool = True
    attention_scale: float | None = None
    scale_embeddings: bool = True
    share_embeddings: bool = flag(True, used=_decodes)
    tie_embeddings: bool = flag(True, heads=("seq2seq_lm",))
    scale_outputs: bool = flag(False, heads=("seq2seq_lm",))
    use_logits_bias: bool = flag(False, heads=("seq2seq_lm",))
    dropout: float = rate(0.1)
    attention_dropout: float = rate(0.0)
    head: str | None = choice("seq2seq_lm", HEADS)
    num_classes: int = size(2, heads=("sequence_classification",))
    decoder_start_token_id: int = token(1, of="decoder_vocab_size", used=_decodes)
    eos_token_id: int | None = token(2, of="decoder_vocab_size", used=_decodes)
    pad_token_id: int | None = token(0, used=lambda c: _decodes(c) or c.numbering == "tokens")

    def check(self) -> None:
        self.quotient("num_heads", "num_kv_heads")
        self.quotient("num_decoder_heads", "num_decoder_kv_heads")
        for head_dim in (self.head_dim, self.decoder_head_dim):
            check_position(self.position, hidden_dim=self.hidden_dim, head_dim=head_dim or 0)
        if self.decoder_vocab_size != self.vocab_size and self.share_embeddings and _decodes(self):
            raise ValueError(
                f"decoder_vocab_size: got {self.decoder_vocab_size} with share_embeddings; accepted: vocab_size="
                f"{self.vocab_size}, or share_embeddings=False"
            )
        if self.numbering == "tokens" and self.pad_token_id is None:
            raise ValueError("pad_token_id: got None with numbering='tokens'; accepted: a token")
        if self.head == "sequence_classification" and self.eos_token_id is None:
            raise ValueError("eos_token_id: got None with a classification head; accepted: a token")

    @property
    def rotary_interleaved(self) -> bool:
        return self.position == "rotary_interleaved"

    @property
    def depth(self) -> int:
        return self.num_layers + ((self.num_decoder_layers or 0) if _decodes(self) else 0)

    def least_parameters(self) -> int:
        heads = self.num_heads * (self.head_dim or 0), (self.num_decoder_heads or 0) * (self.decoder_head_dim or 0)
        blocks = self.num_layers * ((self.intermediate_dim or 0) + heads[0])
        decoders = self.depth - self.num_layers
        blocks += decoders * ((self.decoder_intermediate_dim or 0) + heads[1])
        rows = self.max_length if self.position == "learned" else 0
        buckets = self.num_heads * self.num_buckets if self.position == "relative" else 0
        return self.hidden_dim * (self.vocab_size + rows + blocks) + buckets
