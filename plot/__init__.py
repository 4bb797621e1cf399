"""Pictures of what models look at, of how they tell positions apart, and of what files measured, as PNG or SVG.

Every function writes one file and returns the numbers it drew. The first row of a batch is drawn, without its padding.
The same call writes the same bytes. Needs matplotlib, which comes with the extra ``attention-zoo[demo]``.
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
