"""Labels a set of images whose classes are known as a person would, one label at a time, and reports what was learned.

It puts the learner's parts together as the service does, and knows `model/` only.
"""

from replay.labelling import run
from replay.results import Results

__all__ = ["Results", "run"]
