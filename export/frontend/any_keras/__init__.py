"""Third-party Keras models, layers and functions, with the interface of an attention_zoo model for the exporters."""
