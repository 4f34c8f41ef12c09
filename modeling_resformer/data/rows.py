"""Rows of a prepared dataset as the Trainer draws them: augmented and shuffled for training, as stored for evaluation."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset, Sampler

from ..heads import Task
from .columns import class_names
from .transforms import Augmentation, augment


class EpochSampler(Sampler[int]):
    """A new random order every epoch, as positions that tell row *and* epoch: `epoch * num_rows + row`.

    So a worker process, persistent or not, needs no word of the epoch, and the order is a pure function of
    (seed, epoch). The Trainer calls `set_epoch` through Accelerate.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_rows)
        return iter((self.epoch * self.num_rows + order).tolist())


class TrainingRows(Dataset):
    """Augmented rows, addressed by the positions of an `EpochSampler`.

    Args:
        rows: one split of a prepared dataset.
        augmentation: what may happen to an image.
        seed: of the run.
        ignore_index: value of mask pixels that nobody annotated.
    """

    def __init__(self, rows: datasets.Dataset, augmentation: Augmentation, seed: int, ignore_index: int = 255) -> None:
        self.rows = rows
        self.augmentation = augmentation
        self.seed = seed
        self.ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, row_index = divmod(position, len(self.rows))
        row = self.rows[row_index]
        image, mask = augment(
            row["image"], row["mask"], self.augmentation, self.seed, epoch, row_index, self.ignore_index
        )
        return {**row, "image": image, "mask": mask}


def annotated_rows(rows: datasets.Dataset, task: Task) -> datasets.Dataset:
    """The rows with a mask or a known label for a head of the task; the very same dataset where that is all or none."""
    masks, labels, unknown = (rows[name] for name in ("mask_classes", "class_labels", "class_labels_unknown"))
    num_classes = len(class_names(rows.features, "class_labels"))
    kept = [
        index
        for index, (mask, present, hidden) in enumerate(zip(masks, labels, unknown, strict=True))
        if (task.mask_logits is not None and mask is not None)
        or (task.class_logits is not None and present is not None and len(set(hidden or ())) < num_classes)
    ]
    return rows.select(kept) if 0 < len(kept) < len(rows) else rows


class EvaluationRows(Dataset):
    """Rows as stored, each with its `row_index`, which keeps a padded last batch from being counted twice."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row_index: int) -> dict[str, Any]:
        return {**self.rows[row_index], "row_index": row_index}
