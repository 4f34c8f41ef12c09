"""From rows of a prepared dataset to the arguments of `forward()`: the one place that knows both vocabularies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from ..modeling_resformer import UNLABELLED


TEACHER_PIXELS = "teacher_pixel_values"  # of a batch, made by the teacher's own image processor


def class_label_row(present: Sequence[int] | None, unknown: Sequence[int], num_classes: int) -> torch.Tensor:
    """(K,) floats: 1 present, 0 absent, -100 unknown; all -100 for a row nobody labelled.

    Args:
        present: indices of the classes that are present, or None where unlabelled.
        unknown: indices of the classes whose state is unknown in this row.
        num_classes: K.
    """
    if present is None:
        return torch.full((num_classes,), float(UNLABELLED))
    row = [0.0] * num_classes  # a tensor takes half a millisecond to be written into one by one
    for value, indices in ((1.0, present), (float(UNLABELLED), unknown)):
        for index in indices:
            row[index] = value
    return torch.tensor(row)


class MultiTaskCollator:
    """Turns a list of rows into one batch.

    Args:
        image_processor: the processor saved with the model; it resizes and normalises, in training as in inference.
        num_classes: K, the number of image-level classes.
        case_ids: every case of the dataset once; `case_ids[i]` is the case that `case_index` i stands for.
        ignore_index: fills `mask_labels` of a row that has no mask, and the padding of the others.
        teacher_processor: the processor of a model that answers the same images, if there is one.
    """

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        num_classes: int,
        case_ids: Sequence[str],
        ignore_index: int = 255,
        teacher_processor: BaseImageProcessor | None = None,
    ) -> None:
        self.image_processor = image_processor
        self.num_classes = num_classes
        self.case_ids = list(case_ids)
        self.ignore_index = ignore_index
        self.teacher_processor = teacher_processor
        self._index_of_case = {case_id: index for index, case_id in enumerate(self.case_ids)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        """One batch.

        Args:
            rows: each with `image`, `mask` (None where unlabelled), `class_labels`, `class_labels_unknown`, `case_id`;
                rows of the evaluation also with `row_index`, and `raw_mask` where the mask to score is another one.

        Returns:
            `pixel_values` (B, 3, h, w) float32, `mask_labels` (B, h, w) int64, `class_labels` (B, K) float32 and
            `case_index` (B,) int64, always. Where the rows carry a `row_index`, it as (B,) int64 and `stored_masks`, a
            list of B (H, W) uint8 tensors at the size the dataset (or `raw_mask`) holds, where scores are computed. Of
            other rows `teacher_pixel_values` (B, 3, H, W), where there is a processor for them.
        """
        encoded = self.image_processor(
            images=[row["image"] for row in rows],
            segmentation_maps=[self._mask_or_ignored(row) for row in rows],
            ignore_index=self.ignore_index,
            return_tensors="pt",
        )
        batch = {
            "pixel_values": encoded["pixel_values"],
            "mask_labels": encoded["labels"],
            "class_labels": torch.stack([self._class_labels(row) for row in rows]),
            "case_index": torch.tensor([self._index_of_case[row["case_id"]] for row in rows]),
        }
        if "row_index" in rows[0]:
            batch["row_index"] = torch.tensor([row["row_index"] for row in rows])
            batch["stored_masks"] = [self._stored_mask(row) for row in rows]
        elif self.teacher_processor is not None:
            seen = self.teacher_processor(images=[row["image"] for row in rows], return_tensors="pt")
            batch[TEACHER_PIXELS] = seen["pixel_values"]
        return batch

    def _mask_or_ignored(self, row: Mapping[str, Any]) -> Image.Image:
        return row["mask"] or Image.new("L", row["image"].size, self.ignore_index)

    def _stored_mask(self, row: Mapping[str, Any]) -> torch.Tensor:
        mask = row.get("raw_mask") or self._mask_or_ignored(row)
        return torch.from_numpy(np.array(mask, dtype=np.uint8))

    def _class_labels(self, row: Mapping[str, Any]) -> torch.Tensor:
        return class_label_row(row["class_labels"], row.get("class_labels_unknown") or (), self.num_classes)
