"""Replacements of TensorFlow operations that LiteRT has no operator for, or computes wrongly."""

from . import counting as counting
from . import elementwise as elementwise
from . import integers as integers
from .table import replaced as replaced
