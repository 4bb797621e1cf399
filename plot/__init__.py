"""Plots of attention weights, position encodings and benchmark results, as PNG or SVG files.

Every function that draws writes one file and returns the values it drew. Of a batch it draws only the first row,
without padding tokens. The same call always writes the same bytes. matplotlib is required; the extra
``attention-zoo[demo]`` installs it.
"""

from .bars import measurements
from .drawing import need_pictures, picture_format
from .pictures import alignment, attention_maps, attention_rollout, position_map, rollout
from .request import KINDS, command

__all__ = [
    "KINDS",
    "alignment",
    "attention_maps",
    "attention_rollout",
    "command",
    "measurements",
    "need_pictures",
    "picture_format",
    "position_map",
    "rollout",
]
