"""The config of GPT: sizes, and what differs between GPT-2, Llama, Gemma, GPT-NeoX and the like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...layers.core import NORMALIZATIONS
from ...layers.experts import CLAMPED
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.position import check_position
from ...layers.rotary import check_scaling
from ..config import choice, flag, number, rate, size, token
from ..layer_kinds import SLIDING, indices, layer_types
from ..sentences import FUNCTIONS, SentenceConfig
from .expert_fields import check_experts, has_experts

HEADS = ("causal_lm", "sequence_classification", "token_classification", "sentence_embedding", None)


@dataclass(frozen=True)
class GPTConfig(SentenceConfig):
    """Config of ``GPT``. The defaults are those of the smallest GPT-2.

    Attributes:
        vocab_size: number of rows of the embedding table, and of logits per token.
        num_layers: number of Transformer blocks.
        num_heads: number of query heads.
        num_kv_heads: number of key/value heads, a divisor of `num_heads`. Default: `num_heads`.
        head_dim: size of one head. Default: `hidden_dim` / `num_heads`.
        hidden_dim: size of the hidden states.
        intermediate_dim: size of the hidden layer of the feed-forward network. Default: 4 `hidden_dim`.
        max_length: maximum sequence length.
        position: a position encoding of ``layers.position.POSITIONS``, such as "learned", "rotary", "alibi" or "none".
        position_offset: number of rows before that of position 0 in the table of learned positions, such as OPT's 2.
        rope_theta, rope_scaling: options of rotary positions; see ``layers.RotaryEmbedding``.
        rotary_dim: number of features of a head that are rotated. None for all of them.
        sliding_rope_theta: `rope_theta` of the layers of sliding attention, which then have no `rope_scaling`. None if
            these layers have the same positions as the other layers.
        unrotated_layers: indices of layers whose queries and keys are not rotated.
        alibi_scale: factor on the slopes of ALiBi.
        attention_scale: factor on the attention scores. Default: head_dim^-1/2.
        attention_softcap: limit of the attention scores, see ``layers.MultiHeadAttention``; None for no limit.
        attention_sinks: whether every softmax over keys includes a trained extra logit, one for each head.
        scale_by_layer: whether to divide the scores of block i by i + 1, as an option of GPT-2 does.
        sliding_window: number of tokens, including itself, that a token attends to in layers of sliding attention.
            None for all preceding tokens.
        layer_types: "full_attention" or "sliding_attention" for each layer. Default: all sliding if there is a
            `sliding_window`, or else all full.
        norm, norm_epsilon: the normalization layer, one of ``layers.core.NORMALIZATIONS``, and its epsilon.
        norm_first, norm_branches, parallel, shared_norm: which inputs and outputs of a block's two branches are
            normalized, and whether both read the same input; see ``layers.TransformerBlock``.
        embedding_norm: whether to normalize the embeddings before the first block.
        embedding_scale: factor on the embeddings of tokens.
        residual_scale: factor on the output of each branch before it is added.
        logits_scale, logits_softcap: factor on the logits, and limit of their magnitude or None.
        activation: activation of the feed-forward network. Gated ones, such as "swiglu", add a gate projection.
        num_experts: number of experts of a ``layers.MixtureOfExperts`` in place of every feed-forward network, as in
            Mixtral; None for none.
        experts_per_token: number of experts that are computed for each token.
        expert_intermediate_dim: `intermediate_dim` of an expert. Default: `intermediate_dim`.
        shared_expert_dim: width of a further expert that all tokens use, as in Qwen2-MoE; None for no such expert.
        normalize_experts: whether the weights of the selected experts sum to 1.
        router_bias: whether the routers have biases.
        router_loss: factor on the load-balancing loss, averaged over the routers, which training adds to its loss.
        dense_layers: indices of the blocks with a plain feed-forward network in a model with experts.
        use_bias: whether the linear projections have biases.
        use_qkv_bias, use_output_bias, use_feedforward_bias: the same for the query, key and value projections, for the
            attention's output and for the feed-forward network. Default: `use_bias`.
        use_head_bias: whether an output projection that is not tied has a bias.
        qk_norm: whether to normalize every query and key head, as in Qwen3.
        qk_norm_joined: whether that norm goes over all heads together, as in OLMo 2.
        tie_embeddings: whether the embedding table is also the output projection.
        dropout, attention_dropout: dropout rates, of the hidden states and of the attention weights.
        initializer_range: standard deviation of the initial weights.
        scale_initial_outputs: whether that of the kernels that end a branch is divided by sqrt(2 · num_layers), as in
            GPT-2 (Radford et al. 2019, section 2.3): the sum of all branches then begins with the same size in models
            of every depth. For training from scratch.
        head: one of ``HEADS``; see the module docstring.
        num_classes: number of classes of the two classification heads.
        score_activation: function of the logits of ``head="sequence_classification"``; see ``BERTConfig``.
        bos_token_id, eos_token_id, pad_token_id: the token that begins a text, the token or tokens that end generation,
            and the token that pads rows to one length. None if there is no such token.
    """

    vocab_size: int = size(50257)
    num_layers: int = size(12)
    num_heads: int = size(12)
    num_kv_heads: int | None = size(None, derived=lambda c: c.num_heads)
    head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
    hidden_dim: int = size(768)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    max_length: int = size(1024)
    position: str = "learned"
    position_offset: int = size(0, least=0)
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    rotary_dim: int | None = size(None)
    sliding_rope_theta: float | None = None
    unrotated_layers: tuple[int, ...] = indices()
    alibi_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    attention_sinks: bool = False
    scale_by_layer: bool = False
    sliding_window: int | None = size(None)
    layer_types: tuple[str, ...] | None = layer_types()
    norm: str = choice("layer_norm", NORMALIZATIONS)
    norm_epsilon: float = 1e-5
    norm_first: bool = True
    norm_branches: bool = False
    parallel: bool = False
    shared_norm: bool = False
    embedding_norm: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = number(1.0, heads=("causal_lm",))
    logits_softcap: float | None = number(None, heads=("causal_lm",))
    activation: str = choice("gelu_tanh", (*ACTIVATIONS, *GATED, CLAMPED))
    num_experts: int | None = size(None)
    experts_per_token: int = size(2, used=has_experts)
    expert_intermediate_dim: int | None = size(None, derived=lambda c: c.intermediate_dim, used=has_experts)
    shared_expert_dim: int | None = size(None, used=has_experts)
    normalize_experts: bool = flag(True, used=has_experts)
    router_bias: bool = flag(False, used=has_experts)
    router_loss: float = number(0.0, training=True)
    dense_layers: tuple[int, ...] = indices(used=has_experts)
    use_bias: bool = True
    use_qkv_bias: bool | None = None
    use_output_bias: bool | None = None
    use_feedforward_bias: bool | None = None
    use_head_bias: bool = flag(False, heads=("causal_lm",))
    qk_norm: bool = False
    qk_norm_joined: bool = False
    tie_embeddings: bool = flag(True, heads=("causal_lm",))
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    initializer_range: float = number(0.02, training=True)
    scale_initial_outputs: bool = flag(False, training=True)
    head: str | None = choice("causal_lm", HEADS)
    num_classes: int = size(2, heads=("sequence_classification", "token_classification"))
    score_activation: str | None = choice(None, FUNCTIONS, heads=("sequence_classification",))
    bos_token_id: int | None = token(None)
    eos_token_id: int | tuple[int, ...] | None = token(None, several=True)
    pad_token_id: int | None = token(None)

    def check(self) -> None:
        for name in ("use_qkv_bias", "use_output_bias", "use_feedforward_bias"):
            if getattr(self, name) is None:
                self.set(name, self.use_bias)
        self.quotient("num_heads", "num_kv_heads")
        self._check_layers()
        check_experts(self)
        widths = {"hidden_dim": self.hidden_dim, "head_dim": self.head_dim or 0, "rotary_dim": self.rotary_dim}
        check_position(self.position, **widths)
        if self.rotary_dim == self.head_dim:
            self.set("rotary_dim", None)
        self.set("rope_scaling", check_scaling(self.rope_scaling))
        scaling = self.rope_scaling or {"rope_type": None}
        if scaling["rope_type"] == "dynamic" and self.max_length > scaling["original_max_position_embeddings"]:
            most = scaling["original_max_position_embeddings"]
            raise ValueError(
                f"max_length: got {self.max_length} with dynamic scaling of the positions, which depends on the length "
                f"beyond {most}; accepted: at most {most}"
            )

    def _check_layers(self) -> None:
        kinds = set(self.layer_types or ())
        if SLIDING in kinds and self.sliding_window is None:
            raise ValueError(f"sliding_window: got None with layer_types of {SLIDING!r}; accepted: a number of tokens")
        if len(kinds) == 1:  # as without layer_types
            self.set("sliding_window", self.sliding_window if SLIDING in kinds else None)
            self.set("layer_types", None)
        if self.sliding_window is None:
            self.set("sliding_rope_theta", None)

    @property
    def sliding_layers(self) -> tuple[bool, ...]:
        """Whether the attention of each layer is limited to the sliding window."""
        if self.layer_types is None:
            return (self.sliding_window is not None,) * self.num_layers
        return tuple(kind == SLIDING for kind in self.layer_types)

    @property
    def rotary_interleaved(self) -> bool:
        return self.position == "rotary_interleaved"

    def least_parameters(self) -> int:
        experts = (self.num_experts or 0) * (self.expert_intermediate_dim or 0)
        block = min(self.intermediate_dim or 0, experts or 2**62) + self.num_heads * (self.head_dim or 0)
        rows = self.max_length + self.position_offset if self.position == "learned" else 0
        return self.hidden_dim * (self.vocab_size + rows + self.num_layers * block)
