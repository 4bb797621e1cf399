"""Callbacks for ``fit``: speed, samples of text, checkpoints, learning rates, and runs that can be killed."""

import keras

from .checkpoints import BestCheckpoints, HuggingFaceCheckpoint
from .rates import LearningRateFinder
from .resume import Resume
from .samples import TextSamples
from .throughput import Throughput
