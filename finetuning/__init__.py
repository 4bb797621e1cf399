"""Fine-tuning: low-rank adapters, frozen weights, layer-wise learning rates and gradient checkpointing."""

# The first import of Keras also imports the model families (see ``_keras_hook.py``), which import the modules of this
# package. Importing Keras here makes this happen before any of these modules is partially imported.
import keras
