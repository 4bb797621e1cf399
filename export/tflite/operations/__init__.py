"""Replacements of TensorFlow operations that LiteRT has no operator for, or computes wrongly."""

from . import convolutions as convolutions
from . import counting as counting
from . import edges as edges
from . import elementwise as elementwise
from . import fourier as fourier
from . import hashing as hashing
from . import images as images
from . import integers as integers
from . import linear_algebra as linear_algebra
from . import lookups as lookups
from . import moves as moves
from .table import replaced as replaced

# Rules that call those of other modules for what they do not apply to.
edges.register()
fourier.register()
