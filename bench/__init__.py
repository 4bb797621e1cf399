"""Latency, throughput and memory of exported files, for one file or several in comparison, and limits of the machine.

Every file is loaded and timed in a new process (``processes.py``), so that files share neither memory nor threads with
each other or with the calling process. Requires the file's own runtime, but neither TensorFlow nor Keras.
"""

from .figures import Figures, Pace
from .limits import Limits
from .one_file import benchmark
from .several import Comparison, compare

__all__ = ["Comparison", "Figures", "Limits", "Pace", "benchmark", "compare"]
