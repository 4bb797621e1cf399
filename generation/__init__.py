"""Text generation.

``search`` chooses the next tokens, ``decoder`` runs graphs to compute their logits, ``keras_decoder`` compiles these
graphs for Keras models, and ``text_generation`` and ``chat`` work with texts and conversations instead of token ids.
"""
