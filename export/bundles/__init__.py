"""Folders and files for other engines: ONNX Runtime GenAI, Hugging Face loaders and LiteRT-LM."""
