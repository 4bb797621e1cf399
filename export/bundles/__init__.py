"""Folders and files that other engines open: ONNX Runtime GenAI, Hugging Face loaders, LiteRT-LM."""
