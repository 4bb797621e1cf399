"""Fine-tuning: adapters, frozen weights, learning rates by depth, gradient checkpointing."""

# The first import of Keras imports the families (``_keras_hook.py``), and they import the modules of this folder:
# that must happen before one of these is half imported.
import keras
