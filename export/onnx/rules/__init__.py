"""The rules by which operations of a trace are replaced before the conversion, one module for each kind."""

from __future__ import annotations

from . import (
    arithmetic,
    comparisons,
    complex_numbers,
    convolutions,
    counting,
    functions,
    hashing,
    images,
    linear_algebra,
    loops,
    scattering,
    selection,
    slices,
)

__all__ = [
    "arithmetic",
    "comparisons",
    "complex_numbers",
    "convolutions",
    "counting",
    "functions",
    "hashing",
    "images",
    "linear_algebra",
    "loops",
    "scattering",
    "selection",
    "slices",
]
