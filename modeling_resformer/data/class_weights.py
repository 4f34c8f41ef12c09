"""Class counts of a split, and the weights that balance them."""

import logging
from collections.abc import Mapping, Sequence

from datasets import Dataset

from ..errors import BadInputError
from .columns import class_names


logger = logging.getLogger(__name__)


def class_counts(dataset: Dataset, column: str = "class_labels") -> dict[str, int]:
    """Returns class name -> number of rows in which it is present; `column` may also be `mask_classes`."""
    names = class_names(dataset.features, column)
    counts = dict.fromkeys(names, 0)
    for present in dataset.with_format(None)[column]:
        for index in present or []:
            counts[names[index]] += 1
    return counts


def balanced(counts: Mapping[str, int], num_rows: int) -> dict[str, float]:
    """Returns weights N / (K n_c): N labelled rows, K classes, n_c rows with class c.

    Example:

    ```py
    >>> balanced({"melanoma": 374, "seborrheic_keratosis": 254, "nevus": 1372}, 2000)
    {'melanoma': 1.78..., 'seborrheic_keratosis': 2.62..., 'nevus': 0.48...}
    ```

    Raises:
        BadInputError: a class without rows, for which no weight is defined.
    """
    absent = [name for name, count in counts.items() if count == 0]
    if absent:
        raise BadInputError(
            f"no training row has the class {', '.join(absent)}; add some or give the weights yourself"
        )
    return {name: num_rows / (len(counts) * count) for name, count in counts.items()}


def balanced_class_weights(dataset: Dataset) -> list[float]:
    """Returns the `balanced` weights of a training split, in the order of its image-level classes.

    A class without rows, for which none is defined, weighs 1, and a warning says so.
    """
    labelled = sum(present is not None for present in dataset.with_format(None)["class_labels"])
    counts = class_counts(dataset)
    absent = [name for name, count in counts.items() if count == 0]
    if absent and labelled:
        logger.warning(
            "No training row has the class %s: nothing can be learned of it but its absence; its class weight is 1.",
            ", ".join(absent),
        )
    return [labelled / (len(counts) * count) if count else 1.0 for count in counts.values()]


def describe_weights(weights: Mapping[str, float] | Sequence[float]) -> str:
    """Returns the weights in one line for a report."""
    pairs = weights.items() if isinstance(weights, Mapping) else enumerate(weights)
    return ", ".join(f"{name} {weight:.2f}" for name, weight in pairs)
