"""Whether the image-level classes of rows exclude each other: exactly one class an image, as diagnoses often are."""

from collections.abc import Iterator, Mapping

from datasets import Dataset

from .columns import class_names


def labels_exclude(splits: Mapping[str, Dataset]) -> bool:
    """Whether every labelled row of every split has exactly one class, of several that there are.

    Not of the training split alone: a class that comes with another in a test image does not exclude it. A row of which
    nothing is known is not labelled; one without a class, where some are unknown, has none that is known.
    """
    numbers = [len(present) for split in splits.values() for present, unknown in _labelled(split)]
    several = all(len(class_names(split.features, "class_labels")) > 1 for split in splits.values())
    return several and bool(numbers) and set(numbers) == {1}


def contradicting_rows(split: Dataset) -> list[int]:
    """Positions of the rows that no image can have whose classes exclude each other: several classes, or surely none."""
    return [
        position
        for position, (present, unknown) in enumerate(_states(split))
        if present is not None and (len(present) > 1 or not (present or unknown))
    ]


def _states(split: Dataset) -> Iterator[tuple[set[int] | None, set[int]]]:
    """The present and the unknown classes of each row; None in place of the first where nobody labelled it."""
    columns = split.with_format(None)
    for present, unknown in zip(columns["class_labels"], columns["class_labels_unknown"], strict=True):
        yield None if present is None else set(present) - set(unknown or ()), set(unknown or ())


def _labelled(split: Dataset) -> Iterator[tuple[set[int], set[int]]]:
    """Those of the rows of which some class is known."""
    number = len(class_names(split.features, "class_labels"))
    for present, unknown in _states(split):
        if present is not None and len(unknown) < number:
            yield present, unknown
