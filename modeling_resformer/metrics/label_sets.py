"""Sets of image-level classes that hold those that are present with a chance that the user chooses: split conformal prediction.

Each class has a threshold of its own (class-conditional, "least ambiguous sets": Sadinle, Lei and Wasserman 2019): of n
validation rows that have the class, the ceil((n + 1) level)-th highest score. For one more row that has it and is like those
(exchangeable with them), the chance that its score reaches the threshold is at least the level, whatever the model.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np


logger = logging.getLogger(__name__)


def choose_label_sets(
    probabilities: np.ndarray, true: np.ndarray, level: float, class_names: Sequence[str]
) -> list[float]:
    """The threshold of each class at or above which it belongs to an image's set.

    Args:
        probabilities: (N, K) in [0, 1].
        true: (N, K) floats, 1 present; anything else takes no part.
        level: in (0, 1), the chance with which a present class is in the set.
        class_names: K names, for the warning.

    Returns:
        K thresholds in [0, 1]; 0, which lets every image in, for a class with too few rows to promise the level.
    """
    thresholds = []
    for p, t, name in zip(probabilities.T, true.T, class_names, strict=True):
        present = np.sort(p[t == 1])[::-1]
        needed = math.ceil((len(present) + 1) * level - 1e-9)
        if needed > len(present):
            logger.warning(
                "%s is in every label set: %d validation rows have it, and a level of %s needs %d or more.",
                *(name, len(present), level, math.ceil(level / (1 - level) - 1e-9)),
            )
        thresholds.append(float(present[needed - 1]) if needed <= len(present) else 0.0)
    return thresholds
