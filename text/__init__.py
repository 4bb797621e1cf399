"""Tokenizers, their vocabularies, chat templates and prompts."""
