"""The config of BERT and of the encoders that differ from it in config fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...layers.core import NORMALIZATIONS
from ...layers.disentangled import TERMS
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.position import POSITIONS, check_position
from ...layers.rotary import check_scaling
from ..config import choice, field, flag, number, rate, size, token
from ..layer_kinds import SLIDING, layer_types
from ..sentences import FUNCTIONS, SentenceConfig

HEADS = (
    None,
    "masked_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "multiple_choice",
    "next_sentence",
    "replaced_tokens",
    "sentence_embedding",
)
OF_FIRST = ("sequence_classification", "multiple_choice", "next_sentence")  # heads on the first token
TRANSFORMED = ("sequence_classification", "token_classification", "question_answering", "multiple_choice")
IN_ATTENTION = ("rotary", "rotary_interleaved", "alibi", "relative", "disentangled")
ADDED = tuple(word for word in POSITIONS if word not in (*IN_ATTENTION, "none"))
WORDS = (*POSITIONS, "disentangled")


def _positions(_: Any, name: str, value: Any) -> str | tuple[str, str]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value,)
    if pair[0] in ADDED and len(pair) == 2 and pair[1] in IN_ATTENTION:
        return pair
    if len(pair) != 1 or pair[0] not in WORDS:
        raise ValueError(
            f"{name}: got {value!r}; accepted: one of {list(WORDS)}, or a pair of one of {list(ADDED)} and one of "
            f"{list(IN_ATTENTION)}"
        )
    return pair[0]


def _terms(_: Any, name: str, value: Any) -> tuple[str, ...]:
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(term in TERMS for term in given) or len(set(given)) < len(given):
        raise ValueError(f"{name}: got {value!r}; accepted: {list(TERMS)}, one of them, or none")
    return given


@dataclass(frozen=True)
class BERTConfig(SentenceConfig):
    """Config of ``BERT``. The defaults are those of bert-base-uncased. ``GPTConfig`` documents the other fields.

    Attributes:
        position: a position encoding of ``layers.position.POSITIONS``, or a pair of one that is added to the embeddings
            and one that acts in attention, such as ("learned", "relative").
            "disentangled" positions, those of DeBERTa, are two terms of every score; see ``layers/disentangled.py``.
        num_buckets, max_distance: options of "relative" positions; see ``layers.RelativePositionBias``. Of
            "disentangled" ones, the number of rows of the table and the greatest distance, or 0 if each row is for one
            distance; see ``layers.RelativeEmbeddings``.
        position_terms, share_position_projections: options of "disentangled" positions; see
            ``layers.DisentangledAttention``.
        norm_positions: whether the table of "disentangled" positions is normalized.
        sliding_window: a token attends to those at most `sliding_window` // 2 away, in all layers or in those of the
            kind "sliding_attention" of `layer_types`; None for all tokens.
        sliding_rope_theta: `rope_theta` of the layers of sliding attention. Default: `rope_theta`.
        layer_types: the kind of each layer, "full_attention" or "sliding_attention"; None if all are of one kind.
        norm, norm_epsilon: the normalization layer, a name in ``layers.core.NORMALIZATIONS``, and its epsilon.
        first_norm: whether the first block of a pre-norm model normalizes before attention.
        norm_first: normalize before attention and feed-forward network, and once after the last block.
        embedding_norm: whether the embeddings are normalized.
        token_dim: width of the embedding tables. Default: `hidden_dim`.
        project_embeddings: whether a dense layer follows the normalized embeddings. Default: if `token_dim` is not
            `hidden_dim`.
        num_layer_groups: number of groups of layers with the same weights, a divisor of `num_layers` or not: layer i
            is in group ``i * num_layer_groups // num_layers``. None if every layer has its own weights.
        layers_per_group: number of different blocks in a group; each of its layers computes all of them.
        type_vocab_size: number of token types; 0 for a model without them.
        position_offset: 0: the token in column i has position i. Otherwise, as in RoBERTa, the i-th token that is not
            `pad_token_id` has row `position_offset` + i of the position table, and padding has the row before those.
            `position_ids` in a call start at 0 in both cases.
        pad_token_id: the token used for padding; required if `position_offset` is not 0.
        transform_activation, transform_norm_epsilon: activation and normalization epsilon of the masked LM head's
            transform. Default: those of the body.
        pooler: whether a model without a head has the dense layer on the first token.
        pooler_activation: "tanh", "relu" as in DistilBERT, or another activation.
        classifier_activation: the same for the dense layer on the first token of the heads in ``OF_FIRST``. Default:
            `pooler_activation`.
        use_transform_bias: whether the dense layer of the transform has a bias.
        use_logits_bias: whether the logits of the masked LM head have a bias.
        classifier_transform: whether the heads for classification and for question answering begin with a transform
            like that of the masked LM head, as in ModernBERT, instead of the dense layer on the first token.
        classifier_pooling: what such a head reads if it is in ``OF_FIRST``: the "first" token or the "mean" of all.
        head: one of ``HEADS``; see the module docstring.
        tie_embeddings: whether the embedding table is also the masked LM head's output projection.
        num_classes: number of classes of the two classification heads.
        score_activation: function of the logits of ``head="sequence_classification"`` that gives the scores of a
            cross-encoder, one of ``FUNCTIONS``; the output is then a dict of `logits` and `scores`. With "linear",
            whose scores are the logits, and None, which leaves the function open, the output is the logits.
    """

    vocab_size: int = size(30522)
    num_layers: int = size(12)
    num_heads: int = size(12)
    hidden_dim: int = size(768)
    head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    max_length: int = size(512)
    position: str | tuple[str, str] = field("learned", _positions)
    rope_theta: float = number(10_000.0, used=lambda c: c.rotary)
    rope_scaling: dict[str, Any] | None = None
    num_buckets: int = size(32, used=lambda c: c.attention_position in ("relative", "disentangled"))
    max_distance: int = size(128, least=0, used=lambda c: c.attention_position in ("relative", "disentangled"))
    position_terms: tuple[str, ...] = field(TERMS, _terms, used=lambda c: c.disentangled)
    share_position_projections: bool = flag(False, used=lambda c: c.disentangled)
    norm_positions: bool = flag(False, used=lambda c: c.disentangled)
    sliding_window: int | None = size(None)
    sliding_rope_theta: float | None = number(None, used=lambda c: c.rotary and c.sliding_window is not None)
    layer_types: tuple[str, ...] | None = layer_types()
    norm: str = choice("layer_norm", NORMALIZATIONS)
    norm_first: bool = False
    first_norm: bool = flag(True, used=lambda c: c.norm_first)
    embedding_norm: bool = True
    use_bias: bool = True
    use_qkv_bias: bool | None = flag(None, derived=lambda c: c.use_bias)
    use_feedforward_bias: bool | None = flag(None, derived=lambda c: c.use_bias)
    use_key_bias: bool | None = flag(None, derived=lambda c: c.use_bias if c.use_qkv_bias is None else c.use_qkv_bias)
    token_dim: int | None = size(None, derived=lambda c: c.hidden_dim)
    project_embeddings: bool | None = flag(None, derived=lambda c: c.token_dim not in (None, c.hidden_dim))
    num_layer_groups: int | None = size(None)
    layers_per_group: int = size(1, used=lambda c: c.num_layer_groups is not None)
    type_vocab_size: int = size(2, least=0)
    norm_epsilon: float = 1e-12
    activation: str = choice("gelu", (*ACTIVATIONS, *GATED))
    dropout: float = rate(0.1)
    attention_dropout: float = rate(0.1)
    initializer_range: float = number(0.02, training=True)
    position_offset: int = size(0, least=0)
    pad_token_id: int | None = token(None, used=lambda c: c.position_offset > 0)
    transform_activation: str | None = choice(
        None,
        ACTIVATIONS,
        derived=lambda c: c.inner_activation,
        used=lambda c: c.transformed,
    )
    transform_norm_epsilon: float | None = number(None, derived=lambda c: c.norm_epsilon, used=lambda c: c.transformed)
    use_transform_bias: bool = flag(True, used=lambda c: c.transformed)
    use_logits_bias: bool = flag(True, heads=("masked_lm",))
    classifier_transform: bool = flag(False, heads=TRANSFORMED)
    classifier_pooling: str = choice("first", ("first", "mean"), used=lambda c: c.transformed and c.head in OF_FIRST)
    pooler: bool = flag(True, heads=(None,))
    pooler_activation: str = choice("tanh", ACTIVATIONS, used=lambda c: c.head is None and c.pooler)
    classifier_activation: str | None = choice(None, ACTIVATIONS, derived=lambda c: c.pooler_activation, heads=OF_FIRST)
    head: str | None = choice(None, HEADS)
    tie_embeddings: bool = flag(True, heads=("masked_lm",))
    num_classes: int = size(2, heads=("sequence_classification", "token_classification"))
    score_activation: str | None = choice(None, FUNCTIONS, heads=("sequence_classification",))

    def check(self) -> None:
        self.set("rope_scaling", check_scaling(self.rope_scaling))
        for position in (self.added_position, self.attention_position):
            if position != "disentangled":
                check_position(position, hidden_dim=self.token_dim or 0, head_dim=self.head_dim or 0)
        if self.layer_types is not None and SLIDING in self.layer_types and self.sliding_window is None:
            raise ValueError("sliding_window: got None with layer_types of sliding_attention; accepted: an integer")
        if self.num_layer_groups is not None and self.layer_types is not None:
            raise ValueError("num_layer_groups: got a number with layer_types; accepted: None")
        if (groups := self.num_layer_groups or 1) > self.num_layers:
            raise ValueError(f"num_layer_groups: got {groups}; accepted: at most num_layers={self.num_layers}")
        if self.num_layer_groups is not None and self.num_layers > 1000:  # no tensor of a file says how many there are
            raise ValueError(f"num_layers: got {self.num_layers} that share weights; accepted: at most 1000")
        if not self.project_embeddings and self.token_dim != self.hidden_dim:
            raise ValueError(f"project_embeddings: got False; accepted: True, as token_dim is {self.token_dim}")
        if self.position_offset and self.pad_token_id is None:
            raise ValueError(f"pad_token_id: got None; accepted: a token from 0 to {self.vocab_size - 1}")

    @property
    def added_position(self) -> str:
        """The encoding that is added to the embeddings, or "none"."""
        word = self.position if isinstance(self.position, str) else self.position[0]
        return word if word in ADDED else "none"

    @property
    def attention_position(self) -> str:
        """The encoding that acts in attention, or "none"."""
        word = self.position if isinstance(self.position, str) else self.position[1]
        return word if word in IN_ATTENTION else "none"

    @property
    def inner_activation(self) -> str:
        """The activation of the feed-forward network, or of its gate."""
        return GATED.get(self.activation, self.activation)

    @property
    def disentangled(self) -> bool:
        return self.attention_position == "disentangled"

    @property
    def rotary(self) -> bool:
        return self.attention_position.startswith("rotary")

    @property
    def rotary_interleaved(self) -> bool:
        return self.attention_position == "rotary_interleaved"

    @property
    def schedule(self) -> tuple[int, ...]:
        """The block that each step of the encoder computes: 0, 1, 2, … if no weights are shared."""
        if self.num_layer_groups is None:
            return tuple(range(self.num_layers))
        groups = (int(i / (self.num_layers / self.num_layer_groups)) for i in range(self.num_layers))
        return tuple(group * self.layers_per_group + j for group in groups for j in range(self.layers_per_group))

    @property
    def pooled(self) -> bool:
        """Whether the model has a pooler. As in the published checkpoints, only heads on the first token have one."""
        return (self.head in OF_FIRST and not self.transformed) or (self.head is None and self.pooler)

    @property
    def transformed(self) -> bool:
        """Whether the head begins with a dense layer and a normalization."""
        return self.head == "masked_lm" or (self.classifier_transform and self.head in TRANSFORMED)

    @property
    def transform_dim(self) -> int:
        """The width of this dense layer."""
        return (self.token_dim or 0) if self.head == "masked_lm" else self.hidden_dim

    def least_parameters(self) -> int:
        rows = self.vocab_size + self.type_vocab_size
        rows += self.position_offset + self.max_length if self.added_position == "learned" else 0
        classes = self.num_classes if "num_classes" not in self.unused_fields() else 0
        block = (self.head_dim or 0) * self.num_heads + (self.intermediate_dim or 0)
        return (self.token_dim or 0) * rows + self.hidden_dim * (classes + self.depth * block)

    @property
    def depth(self) -> int:
        return self.num_layers if self.num_layer_groups is None else self.num_layer_groups * self.layers_per_group
