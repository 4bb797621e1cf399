"""Dialects of Hugging Face checkpoints for GPT by their ``model_type``; see ``dialects/``.

Each dialect maps the entries of a config.json and the names of the tensors to those of this package. ``GPT.dialects``
also includes the GGUF dialect of ``gguf.py``.
"""

from __future__ import annotations

from .dialects import experts, gpt2, layer_norms, llama, neox, norms
from .gguf import GGUF
from .model import GPT

GPT.dialects = {
    "gpt2": gpt2.GPT2,
    "gpt_bigcode": gpt2.GPT_BIGCODE,
    "gpt_neo": gpt2.GPT_NEO,
    "opt": gpt2.OPT,
    "bloom": gpt2.BLOOM,
    "mpt": gpt2.MPT,
    "llama": llama.LLAMA,
    "mistral": llama.MISTRAL,
    "ministral": llama.MINISTRAL,
    "qwen2": llama.QWEN2,
    "qwen3": llama.QWEN3,
    "helium": llama.HELIUM,
    "seed_oss": llama.SEED_OSS,
    "ernie4_5": llama.ERNIE4_5,
    "phi3": llama.PHI3,
    "granite": llama.GRANITE,
    "smollm3": llama.SMOLLM3,
    "gemma": norms.GEMMA,
    "gemma2": norms.GEMMA2,
    "gemma3_text": norms.GEMMA3,
    "olmo2": norms.OLMO2,
    "olmo3": norms.OLMO3,
    "cohere": norms.COHERE,
    "cohere2": norms.COHERE2,
    "glm": norms.GLM,
    "glm4": norms.GLM4,
    "starcoder2": layer_norms.STARCODER2,
    "stablelm": layer_norms.STABLELM,
    "nemotron": layer_norms.NEMOTRON,
    "phi": layer_norms.PHI,
    "gpt_neox": neox.GPT_NEOX,
    "gptj": neox.GPTJ,
    "falcon": neox.FALCON,
    "mixtral": experts.MIXTRAL,
    "qwen2_moe": experts.QWEN2_MOE,
    "qwen3_moe": experts.QWEN3_MOE,
    "olmoe": experts.OLMOE,
    "gpt_oss": experts.GPT_OSS,
    "gguf": GGUF,
}
