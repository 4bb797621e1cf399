"""How fast files run and what memory they take, one alone or several in turn, beside what the machine can do.

Every file is loaded and timed in a fresh process of its own (``processes.py``), so that neither memory nor threads of
two files mix, nor those of whoever asks. Needs the file's own runtime, and neither TensorFlow nor Keras.
"""

from .figures import Figures, Pace
from .limits import Limits
from .one_file import benchmark
from .several import Comparison, compare

__all__ = ["Comparison", "Figures", "Limits", "Pace", "benchmark", "compare"]
