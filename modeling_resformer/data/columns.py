"""The columns of every prepared dataset, whatever its source."""

from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Features, Image, List, Value


UNANNOTATED = 255  # of a stored mask: a pixel that nobody annotated, which losses and scores ignore


def dataset_features(
    mask_classes: Sequence[str], class_labels: Sequence[str], metadata: dict[str, Any] | None = None
) -> Features:
    """Returns the settled columns, followed by the source's own `metadata` columns.

    - `image`: the source file's own bytes, or a PNG at native bit depth.
    - `mask`: a PNG of class indices into `mask_classes`, 255 where nobody annotated, of the image's displayed size;
      null where there is none.
    - `class_labels`: the present image-level classes; `[]` for none of them, null for an unlabelled row.
    - `class_labels_unknown`: classes whose state is not known in this row; `[]` by default.
    - `case_id`, `slice_index`: the volume, patient or image, and the number of the image within it, from 0.
    - `source`: the collection the row comes from.
    - `spacing`: (row, column) in mm per pixel of the stored image; null if unknown.
    - `original_size`: (height, width) of the source image as displayed, before any resizing.
    - `mask_classes`: the foreground classes that occur in `mask` (null without one). Its feature keeps the
      names of all mask classes, background first, with the data: in Arrow, in Parquet and on the Hub.
    """
    class_label = ClassLabel(names=list(class_labels))
    return Features(
        {
            "image": Image(),
            "mask": Image(),
            "class_labels": List(class_label),
            "class_labels_unknown": List(class_label),
            "case_id": Value("string"),
            "slice_index": Value("int32"),
            "source": Value("string"),
            "spacing": List(Value("float64")),
            "original_size": List(Value("int32")),
            "mask_classes": List(ClassLabel(names=list(mask_classes))),
            **(metadata or {}),
        }
    )


def class_names(features: Features, column: str) -> list[str]:
    """Returns the class names that `column` (`class_labels` or `mask_classes`) carries."""
    return list(features[column].feature.names)
