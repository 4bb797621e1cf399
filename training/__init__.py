"""Training: losses, metrics and data for ``model.fit``.

``az.losses``, ``az.metrics`` and ``az.data`` are modules of this package.
"""

# Keras comes first: its import registers the classes of all families, which a module half imported would prevent.
import keras
