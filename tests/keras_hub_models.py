"""KerasHub models with unusual sizes, which tests convert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras_hub

hub = keras_hub.models
VOCABULARY = 37
TEXT: dict[str, Any] = {"vocabulary_size": VOCABULARY, "num_layers": 2, "intermediate_dim": 22, "dropout": 0.1}
LEARNED = {**TEXT, "num_heads": 3, "hidden_dim": 30, "max_sequence_length": 19}
ROTARY = {**TEXT, "num_query_heads": 6, "num_key_value_heads": 2, "hidden_dim": 36, "rope_max_wavelength": 500.0}
QWEN3 = {**ROTARY, "layer_norm_epsilon": 1e-5}  # KerasHub's query and key norms always use this value
SCALING = {
    "rope_frequency_adjustment_factor": 4.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 3.0,
    "rope_pretraining_sequence_length": 16,
}
GEMMA = {**TEXT, "num_query_heads": 6, "num_key_value_heads": 2, "hidden_dim": 30, "head_dim": 8}
PHI3 = {name: size for name, size in ROTARY.items() if name != "rope_max_wavelength"}
SU = {
    "rope_scaling_type": "su",
    "rope_scaling_short_factor": [1.0, 1.5, 2.0],
    "rope_scaling_long_factor": [2.0, 3.0, 5.0],
    "pretraining_sequence_length": 16,
    "max_sequence_length": 64,
}
IMAGES = {
    "image_shape": (15, 15, 2),
    "patch_size": 5,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 30,
    "mlp_dim": 22,
    "layer_norm_epsilon": 1e-3,
    "dropout_rate": 0.1,
    "attention_dropout": 0.2,
}


def bert(**changed: Any) -> Any:
    return hub.BertBackbone(**{**LEARNED, "num_segments": 3, **changed})


def roberta(**changed: Any) -> Any:
    return hub.RobertaBackbone(**{**LEARNED, **changed})


def xlm_roberta(**changed: Any) -> Any:
    return hub.XLMRobertaBackbone(**{**LEARNED, **changed})


def distilbert(**changed: Any) -> Any:
    return hub.DistilBertBackbone(**{**LEARNED, **changed})


def albert(**changed: Any) -> Any:
    groups = {"num_layers": 4, "num_groups": 2, "num_inner_repetitions": 2}
    return hub.AlbertBackbone(**{**LEARNED, **groups, "num_segments": 3, "embedding_dim": 7, **changed})


def electra(**changed: Any) -> Any:
    sizes = {name: size for name, size in LEARNED.items() if name != "vocabulary_size"}
    return hub.ElectraBackbone(**{**sizes, "vocab_size": VOCABULARY, "num_segments": 3, "embedding_dim": 7, **changed})


def deberta(**changed: Any) -> Any:
    return hub.DebertaV3Backbone(**{**LEARNED, "bucket_size": 4, **changed})


def gpt2(**changed: Any) -> Any:
    return hub.GPT2Backbone(**{**LEARNED, **changed})


def llama(**changed: Any) -> Any:
    return hub.LlamaBackbone(**{**ROTARY, "layer_norm_epsilon": 1e-3, **changed})


def qwen(**changed: Any) -> Any:
    return hub.QwenBackbone(**{**ROTARY, **changed})


def gemma(**changed: Any) -> Any:
    """Gemma 2 in all options, with windows that some rows fill."""
    norms = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
    return hub.GemmaBackbone(
        **{**GEMMA, **norms, "use_sliding_window_attention": True, "sliding_window_size": 3, **changed},
        attention_logit_soft_cap=5.0,
        final_logit_soft_cap=3.0,
    )


PLAIN = {"use_query_key_norm": False, "use_sliding_window_attention": False, "sliding_window_size": 1024}


def gemma3(**changed: Any) -> Any:
    options = {"use_post_ffw_norm": True, "use_post_attention_norm": True, "use_sliding_window_attention": True}
    sizes = {"image_size": 896, "num_layers": 7, "sliding_window_size": 3, "global_rope_scaling_factor": 2.0}
    return hub.Gemma3Backbone(**{**GEMMA, **options, **sizes, **changed})


def vit(**changed: Any) -> Any:
    return hub.ViTBackbone(**{**IMAGES, **changed})


def deit(**changed: Any) -> Any:
    sizes = {name: size for name, size in IMAGES.items() if name != "mlp_dim"}
    return hub.DeiTBackbone(**{**sizes, "intermediate_dim": 22, **changed})


def dinov2(**changed: Any) -> Any:
    sizes = {name: IMAGES[name] for name in ("patch_size", "num_layers", "num_heads", "hidden_dim", "dropout_rate")}
    shapes = {"image_shape": (15, 15, 2), "position_embedding_shape": (15, 15, 2)}
    return hub.DINOV2Backbone(**{**sizes, **shapes, "intermediate_dim": 24, "num_register_tokens": 2, **changed})


def bart(**changed: Any) -> Any:
    return hub.BartBackbone(**{**LEARNED, **changed})


def t5(**changed: Any) -> Any:
    sizes = {name: size for name, size in LEARNED.items() if name != "max_sequence_length"}
    return hub.T5Backbone(**{**sizes, "key_value_dim": 8, "layer_norm_epsilon": 1e-3, **changed})


def mixtral(**changed: Any) -> Any:
    return hub.MixtralBackbone(**{**ROTARY, "num_experts": 5, "top_k": 2, "sliding_window": 3, **changed})


def whisper(**changed: Any) -> Any:
    sizes = {name: size for name, size in LEARNED.items() if name != "max_sequence_length"}
    lengths = {"num_mels": 5, "max_encoder_sequence_length": 12, "max_decoder_sequence_length": 19}
    return hub.WhisperBackbone(**{**sizes, **lengths, **changed})


# A function that creates a KerasHub model, and the kind for the way back if it is not the first that fits the config.
SOURCES: dict[str, tuple[Callable[[], Any], str | None]] = {
    "bert": (bert, None),
    "bert-lm": (lambda: hub.BertMaskedLM(bert()), None),
    "bert-classifier": (lambda: hub.BertTextClassifier(bert(), num_classes=5), None),
    "bert-mean": (lambda: hub.BertTextEmbedder(bert(), normalize=False), None),
    "bert-first": (lambda: hub.BertTextEmbedder(bert(), pooling_mode="cls"), None),
    "bert-max": (lambda: hub.BertTextEmbedder(bert(), pooling_mode="max"), None),
    "roberta": (roberta, None),
    "roberta-lm": (lambda: hub.RobertaMaskedLM(roberta()), None),
    "roberta-classifier": (lambda: hub.RobertaTextClassifier(roberta(), num_classes=5, dropout=0.1), None),
    "xlm-roberta-lm": (lambda: hub.XLMRobertaMaskedLM(xlm_roberta()), "XLMRoberta"),
    "xlm-roberta-classifier": (
        lambda: hub.XLMRobertaTextClassifier(xlm_roberta(), num_classes=5, dropout=0.1),
        "XLMRoberta",
    ),
    "xlm-roberta-mean": (lambda: hub.XLMRobertaTextEmbedder(xlm_roberta()), None),
    "distilbert": (distilbert, None),
    "distilbert-lm": (lambda: hub.DistilBertMaskedLM(distilbert()), None),
    "distilbert-classifier": (lambda: hub.DistilBertTextClassifier(distilbert(), num_classes=5, dropout=0.1), None),
    "albert": (albert, None),
    "albert-lm": (lambda: hub.AlbertMaskedLM(albert()), None),
    "albert-classifier": (lambda: hub.AlbertTextClassifier(albert(), num_classes=5, dropout=0.1), None),
    "electra": (electra, None),
    "deberta": (deberta, None),
    "deberta-lm": (lambda: hub.DebertaV3MaskedLM(deberta()), None),
    "deberta-classifier": (lambda: hub.DebertaV3TextClassifier(deberta(), num_classes=5, dropout=0.1), None),
    "electra-even": (lambda: electra(embedding_dim=30), "Electra"),
    "gpt2": (gpt2, None),
    "gpt2-lm": (lambda: hub.GPT2CausalLM(gpt2()), None),
    "llama": (lambda: llama(tie_word_embeddings=True), None),
    "llama-tied-lm": (lambda: hub.LlamaCausalLM(llama(tie_word_embeddings=True)), None),
    "llama-lm": (lambda: hub.LlamaCausalLM(llama()), None),
    "llama3-lm": (lambda: hub.Llama3CausalLM(hub.Llama3Backbone(**ROTARY, **SCALING)), "Llama3"),
    "mistral-lm": (lambda: hub.MistralCausalLM(hub.MistralBackbone(**ROTARY, sliding_window=3, head_dim=8)), None),
    "mistral-wide-lm": (
        lambda: hub.MistralCausalLM(hub.MistralBackbone(**ROTARY, sliding_window=None, rope_scaling_factor=2.0)),
        "Mistral",
    ),
    "qwen-lm": (lambda: hub.QwenCausalLM(qwen()), None),
    "qwen-window-lm": (
        lambda: hub.QwenCausalLM(
            qwen(tie_word_embeddings=False, use_sliding_window_attention=True, sliding_window_size=3)
        ),
        None,
    ),
    "qwen3-lm": (lambda: hub.Qwen3CausalLM(hub.Qwen3Backbone(**QWEN3, head_dim=8, sliding_window_size=3)), None),
    "qwen3-wide": (
        lambda: hub.Qwen3Backbone(**QWEN3, head_dim=4, sliding_window_size=None, rope_scaling_factor=2.0),
        None,
    ),
    "gemma-lm": (lambda: hub.GemmaCausalLM(hub.GemmaBackbone(**GEMMA)), None),
    "gemma2-lm": (lambda: hub.GemmaCausalLM(gemma()), None),
    "gemma2": (gemma, None),
    "gemma3-lm": (lambda: hub.Gemma3CausalLM(None, gemma3()), None),
    "gemma3-plain-lm": (
        lambda: hub.Gemma3CausalLM(None, gemma3(**PLAIN)),
        "Gemma3",
    ),
    "phi3-lm": (lambda: hub.Phi3CausalLM(hub.Phi3Backbone(**PHI3, layer_norm_epsilon=1e-3)), "Phi3"),
    "phi3-scaled-lm": (lambda: hub.Phi3CausalLM(hub.Phi3Backbone(**PHI3, **SU)), None),
    "mixtral-lm": (lambda: hub.MixtralCausalLM(mixtral()), None),
    "mixtral-wide-lm": (lambda: hub.MixtralCausalLM(mixtral(sliding_window=None, rope_scaling_factor=2.0)), None),
    "vit": (vit, None),
    "deit": (deit, None),
    "deit-classifier": (lambda: hub.DeiTImageClassifier(deit(), num_classes=5), None),
    "dinov2": (dinov2, None),
    "dinov2-gated": (
        lambda: dinov2(use_swiglu_ffn=True, num_register_tokens=0, use_mask_token=False, layer_scale_init_value=0.5),
        None,
    ),
    "vit-classifier": (lambda: hub.ViTImageClassifier(vit(dropout_rate=0.0), num_classes=5), None),
}

# The same for models with an encoder and a decoder.
PAIRS: dict[str, Callable[[], Any]] = {
    "bart": lambda: hub.BartSeq2SeqLM(bart()),
    "t5": lambda: hub.T5Seq2SeqLM(t5()),
    "t5-plain": lambda: hub.T5Seq2SeqLM(t5(use_gated_activation=False, key_value_dim=None)),
    "t5-untied": lambda: hub.T5Seq2SeqLM(t5(tie_embedding_weights=False, activation="silu")),
    "t5-gelu": lambda: hub.T5Seq2SeqLM(t5(activation="gelu")),
}
