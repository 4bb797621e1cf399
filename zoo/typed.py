"""Names and config fields of the families, for type checkers and editors.

Written by ``tools/make_typed.py`` from ``zoo/presets.py`` and the config classes; do not edit. Nothing imports this
module at run time.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

GPTName = Literal["gpt", "gpt2", "gpt2-medium", "smollm2-135m"]


class GPTFields(TypedDict, total=False):
    """Config fields of ``GPT``."""

    pooling: str | tuple[str, ...]
    pool_prompt: bool
    projections: tuple[dict[str, Any], ...]
    normalize: bool
    truncate_dim: int | None
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int | None
    head_dim: int | None
    hidden_dim: int
    intermediate_dim: int | None
    max_length: int
    position: str
    position_offset: int
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    rotary_dim: int | None
    sliding_rope_theta: float | None
    unrotated_layers: tuple[int, ...]
    alibi_scale: float
    attention_scale: float | None
    attention_softcap: float | None
    attention_sinks: bool
    scale_by_layer: bool
    sliding_window: int | None
    layer_types: tuple[str, ...] | None
    norm: str
    norm_epsilon: float
    norm_first: bool
    norm_branches: bool
    parallel: bool
    shared_norm: bool
    embedding_norm: bool
    embedding_scale: float
    residual_scale: float
    logits_scale: float
    logits_softcap: float | None
    activation: str
    num_experts: int | None
    experts_per_token: int
    expert_intermediate_dim: int | None
    shared_expert_dim: int | None
    normalize_experts: bool
    router_bias: bool
    router_loss: float
    dense_layers: tuple[int, ...]
    use_bias: bool
    use_qkv_bias: bool | None
    use_output_bias: bool | None
    use_feedforward_bias: bool | None
    use_head_bias: bool
    qk_norm: bool
    qk_norm_joined: bool
    tie_embeddings: bool
    dropout: float
    attention_dropout: float
    initializer_range: float
    scale_initial_outputs: bool
    head: str | None
    num_classes: int
    score_activation: str | None
    bos_token_id: int | None
    eos_token_id: int | tuple[int, ...] | None
    pad_token_id: int | None


BERTName = Literal["bert", "bert-base", "bert-large", "minilm-l6"]


class BERTFields(TypedDict, total=False):
    """Config fields of ``BERT``."""

    pooling: str | tuple[str, ...]
    pool_prompt: bool
    projections: tuple[dict[str, Any], ...]
    normalize: bool
    truncate_dim: int | None
    vocab_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    head_dim: int | None
    intermediate_dim: int | None
    max_length: int
    position: str | tuple[str, str]
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    num_buckets: int
    max_distance: int
    position_terms: tuple[str, ...]
    share_position_projections: bool
    norm_positions: bool
    sliding_window: int | None
    sliding_rope_theta: float | None
    layer_types: tuple[str, ...] | None
    norm: str
    norm_first: bool
    first_norm: bool
    embedding_norm: bool
    use_bias: bool
    use_qkv_bias: bool | None
    use_feedforward_bias: bool | None
    use_key_bias: bool | None
    token_dim: int | None
    project_embeddings: bool | None
    num_layer_groups: int | None
    layers_per_group: int
    type_vocab_size: int
    norm_epsilon: float
    activation: str
    dropout: float
    attention_dropout: float
    initializer_range: float
    position_offset: int
    pad_token_id: int | None
    transform_activation: str | None
    transform_norm_epsilon: float | None
    use_transform_bias: bool
    use_logits_bias: bool
    classifier_transform: bool
    classifier_pooling: str
    pooler: bool
    pooler_activation: str
    classifier_activation: str | None
    head: str | None
    tie_embeddings: bool
    num_classes: int
    score_activation: str | None


ViTName = Literal[
    "vit",
    "vit-tiny-16",
    "vit-small-16",
    "vit-base-16",
    "vit-large-16",
    "dinov2-small-14",
    "dinov3-small-16",
]


class ViTFields(TypedDict, total=False):
    """Config fields of ``ViT``."""

    image_size: int
    patch_size: int
    num_channels: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int | None
    position: str
    rope_theta: float
    position_bias: str | None
    class_token: bool
    num_registers: int
    layer_scale: float | None
    use_mask_token: bool
    distillation_token: bool
    interpolate_antialias: bool
    use_qkv_bias: bool
    use_key_bias: bool | None
    use_output_bias: bool
    use_feedforward_bias: bool
    pooling: str
    pooler: bool
    pooler_activation: str
    pooler_dim: int | None
    classifier: str
    preprocessing: dict[str, Any] | None
    norm_epsilon: float
    activation: str
    dropout: float
    attention_dropout: float
    initializer_range: float
    head: str | None
    num_classes: int


CLIPName = Literal["clip", "clip-vit-base-32", "siglip-base-16"]


class CLIPFields(TypedDict, total=False):
    """Config fields of ``CLIP``."""

    tower: str
    vocab_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int | None
    max_length: int
    activation: str
    norm_epsilon: float
    causal: bool
    text_pooling: str
    eos_token_id: int
    image_size: int
    patch_size: int
    num_channels: int
    image_num_layers: int
    image_num_heads: int
    image_hidden_dim: int
    image_intermediate_dim: int | None
    image_activation: str
    image_norm_epsilon: float
    image_pooling: str
    preprocessing: dict[str, Any] | None
    projection: str
    projection_dim: int
    logit_scale: float
    use_logit_bias: bool
    attention_dropout: float
    initializer_range: float
    head: str | None


TransformerName = Literal["transformer", "transformer-base", "transformer-big"]


class TransformerFields(TypedDict, total=False):
    """Config fields of ``Transformer``."""

    vocab_size: int
    decoder_vocab_size: int | None
    num_layers: int
    num_decoder_layers: int | None
    num_heads: int
    num_decoder_heads: int | None
    num_kv_heads: int | None
    num_decoder_kv_heads: int | None
    head_dim: int | None
    decoder_head_dim: int | None
    hidden_dim: int
    intermediate_dim: int | None
    decoder_intermediate_dim: int | None
    max_length: int
    position: str
    position_offset: int
    numbering: str
    num_buckets: int
    max_distance: int
    share_position_bias: bool
    activation: str
    norm: str
    norm_epsilon: float
    norm_first: bool
    embedding_norm: bool
    norm_before_positions: bool
    use_bias: bool
    attention_scale: float | None
    scale_embeddings: bool
    share_embeddings: bool
    tie_embeddings: bool
    scale_outputs: bool
    use_logits_bias: bool
    dropout: float
    attention_dropout: float
    head: str | None
    num_classes: int
    decoder_start_token_id: int
    eos_token_id: int | None
    pad_token_id: int | None


Seq2SeqName = Literal["seq2seq"]


class Seq2SeqFields(TypedDict, total=False):
    """Config fields of ``Seq2Seq``."""

    vocab_size: int
    num_layers: int
    hidden_dim: int
    embedding_dim: int | None
    cell: str
    bidirectional: bool
    attention: str | None
    max_length: int
    dropout: float
    decoder_start_token_id: int
    eos_token_id: int | None
    pad_token_id: int | None


WhisperName = Literal["whisper"]


class WhisperFields(TypedDict, total=False):
    """Config fields of ``Whisper``."""

    vocab_size: int
    decoder_vocab_size: int | None
    num_layers: int
    num_decoder_layers: int | None
    num_heads: int
    num_decoder_heads: int | None
    num_kv_heads: int | None
    num_decoder_kv_heads: int | None
    head_dim: int | None
    decoder_head_dim: int | None
    hidden_dim: int
    intermediate_dim: int | None
    decoder_intermediate_dim: int | None
    max_length: int
    position: str
    position_offset: int
    numbering: str
    num_buckets: int
    max_distance: int
    share_position_bias: bool
    activation: str
    norm: str
    norm_epsilon: float
    norm_first: bool
    embedding_norm: bool
    norm_before_positions: bool
    use_bias: bool
    attention_scale: float | None
    scale_embeddings: bool
    share_embeddings: bool
    tie_embeddings: bool
    scale_outputs: bool
    use_logits_bias: bool
    dropout: float
    attention_dropout: float
    head: str | None
    num_classes: int
    decoder_start_token_id: int
    eos_token_id: int | None
    pad_token_id: int | None
    num_mel_bins: int
    max_source_length: int
    use_key_bias: bool


class AnyFields(TypedDict, total=False):
    """Config fields of all families."""

    pooling: str | tuple[str, ...]
    pool_prompt: bool
    projections: tuple[dict[str, Any], ...]
    normalize: bool
    truncate_dim: int | None
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int | None
    head_dim: int | None
    hidden_dim: int
    intermediate_dim: int | None
    max_length: int
    position: str | tuple[str, str]
    position_offset: int
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    rotary_dim: int | None
    sliding_rope_theta: float | None
    unrotated_layers: tuple[int, ...]
    alibi_scale: float
    attention_scale: float | None
    attention_softcap: float | None
    attention_sinks: bool
    scale_by_layer: bool
    sliding_window: int | None
    layer_types: tuple[str, ...] | None
    norm: str
    norm_epsilon: float
    norm_first: bool
    norm_branches: bool
    parallel: bool
    shared_norm: bool
    embedding_norm: bool
    embedding_scale: float
    residual_scale: float
    logits_scale: float
    logits_softcap: float | None
    activation: str
    num_experts: int | None
    experts_per_token: int
    expert_intermediate_dim: int | None
    shared_expert_dim: int | None
    normalize_experts: bool
    router_bias: bool
    router_loss: float
    dense_layers: tuple[int, ...]
    use_bias: bool
    use_qkv_bias: bool | None
    use_output_bias: bool | None
    use_feedforward_bias: bool | None
    use_head_bias: bool
    qk_norm: bool
    qk_norm_joined: bool
    tie_embeddings: bool
    dropout: float
    attention_dropout: float
    initializer_range: float
    scale_initial_outputs: bool
    head: str | None
    num_classes: int
    score_activation: str | None
    bos_token_id: int | None
    eos_token_id: int | tuple[int, ...] | None
    pad_token_id: int | None
    num_buckets: int
    max_distance: int
    position_terms: tuple[str, ...]
    share_position_projections: bool
    norm_positions: bool
    first_norm: bool
    use_key_bias: bool | None
    token_dim: int | None
    project_embeddings: bool | None
    num_layer_groups: int | None
    layers_per_group: int
    type_vocab_size: int
    transform_activation: str | None
    transform_norm_epsilon: float | None
    use_transform_bias: bool
    use_logits_bias: bool
    classifier_transform: bool
    classifier_pooling: str
    pooler: bool
    pooler_activation: str
    classifier_activation: str | None
    image_size: int
    patch_size: int
    num_channels: int
    position_bias: str | None
    class_token: bool
    num_registers: int
    layer_scale: float | None
    use_mask_token: bool
    distillation_token: bool
    interpolate_antialias: bool
    pooler_dim: int | None
    classifier: str
    preprocessing: dict[str, Any] | bool | None
    tower: str
    causal: bool
    text_pooling: str
    image_num_layers: int
    image_num_heads: int
    image_hidden_dim: int
    image_intermediate_dim: int | None
    image_activation: str
    image_norm_epsilon: float
    image_pooling: str
    projection: str
    projection_dim: int
    logit_scale: float
    use_logit_bias: bool
    decoder_vocab_size: int | None
    num_decoder_layers: int | None
    num_decoder_heads: int | None
    num_decoder_kv_heads: int | None
    decoder_head_dim: int | None
    decoder_intermediate_dim: int | None
    numbering: str
    share_position_bias: bool
    norm_before_positions: bool
    scale_embeddings: bool
    share_embeddings: bool
    scale_outputs: bool
    decoder_start_token_id: int
    embedding_dim: int | None
    cell: str
    bidirectional: bool
    attention: str | None
    num_mel_bins: int
    max_source_length: int
