"""Pictures of what models look at and of how they tell positions apart, as PNG or SVG.

Every function writes one file and returns the numbers it drew. The first row of a batch is drawn, without its padding.
The same call writes the same bytes. Needs matplotlib, which comes with the extra ``attention-zoo[demo]``.
"""

from .drawing import picture_format
from .pictures import alignment, attention_maps, attention_rollout, position_map, rollout
from .request import KINDS, command

__all__ = [
    "KINDS",
    "alignment",
    "attention_maps",
    "attention_rollout",
    "command",
    "picture_format",
    "position_map",
    "rollout",
]
