"""Texts to ids and back: tokenizers, their vocabularies, chat templates, prompts."""
