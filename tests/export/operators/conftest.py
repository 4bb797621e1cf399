"""The folder of the operator cases becomes importable: pytest's importlib mode does not change sys.path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
