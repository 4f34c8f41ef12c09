"""What would make a run fail late or mean nothing, found before it starts and said in one line with its cure."""

import logging

from transformers import TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor

from ..configuration_resformer import ResFormerConfig
from ..data.exclusive_labels import contradicting_rows
from ..data.prepared import PreparedDataset
from ..errors import BadInputError
from ..heads import Task


logger = logging.getLogger(__name__)


def check_splits(prepared: PreparedDataset, folder: str) -> None:
    """Refuses a dataset that lacks a split.

    Raises:
        BadInputError: naming the split.
    """
    if missing := {"train", "validation", "test"} - set(prepared.dataset):
        raise BadInputError(
            f"{folder} has no {' and no '.join(sorted(missing))} split. Selection needs a validation split and results a "
            "test split: prepare it again with --validation-fraction and --test-fraction, or with --splits."
        )


def check_annotations(prepared: PreparedDataset, task: Task, folder: str) -> None:
    """Warns where one of two tasks has nothing to learn or to be selected by; refuses where the only task has not.

    Raises:
        BadInputError: naming the split and what it lacks; or the dataset was prepared without masks, and they are needed.
    """
    if task.mask_logits is not None and len(prepared.mask_classes) < 2:
        raise BadInputError(
            f"{folder} was prepared without masks, which this task needs; expected --task classification, or a dataset "
            "prepared with masks."
        )
    wanted = {"mask_classes": task.mask_logits, "class_labels": task.class_logits}
    names = {"mask_classes": "a mask", "class_labels": "image-level labels"}
    columns = [column for column, logits in wanted.items() if logits is not None]
    for split, use in (("train", "learn from"), ("validation", "select by")):
        rows = prepared.dataset[split]
        lacking = [column for column in columns if all(value is None for value in rows[column])]
        if len(lacking) == len(columns):
            kinds = " or ".join(names[column] for column in lacking)
            raise BadInputError(
                f"{folder}: no row of the {split} split has {kinds}, so there is nothing to {use}; expected some. "
                "Another --task may have some."
            )
        for column in lacking:
            logger.warning(
                "No row of the %s split has %s: for that task there is nothing to %s.", split, names[column], use
            )


def check_exclusive_labels(prepared: PreparedDataset, config: ResFormerConfig, task: Task, folder: str) -> None:
    """Refuses rows of several classes, or of none, for a model of which each image has exactly one.

    Raises:
        BadInputError: naming the first such case.
    """
    if task.class_logits is None or not config.classes_exclude:
        return
    for split in ("train", "validation", "test"):
        if sentence := describe_contradiction(prepared, split):
            raise BadInputError(
                f"{folder}: {sentence}; expected exactly one (classification_type='exclusive'). Correct the labels, or "
                'train by --config \'{"classification_type": "multi_label"}\'.'
            )


def describe_contradiction(prepared: PreparedDataset, split: str) -> str:
    """Which row of a split has several classes or none, and how many there are; empty where all have one or may have."""
    rows = prepared.dataset[split]
    positions = contradicting_rows(rows)
    if not positions:
        return ""
    first = rows.select_columns(["case_id", "slice_index", "class_labels"])[positions[0]]
    found = ", ".join(prepared.class_labels[index] for index in first["class_labels"]) or "none"
    more = f" (and {len(positions) - 1} more rows are like it)" if len(positions) > 1 else ""
    return (
        f"case {first['case_id']} (slice {first['slice_index']}) of the {split} split has the classes {found}{more}, of "
        f"{', '.join(prepared.class_labels)}"
    )


def check_image_size(image_processor: BaseImageProcessor, config: ResFormerConfig) -> None:
    """Refuses images so small that a batch of one leaves batch norm a single value a channel.

    Raises:
        BadInputError: naming the size.
    """
    height, width = image_processor.size["height"], image_processor.size["width"]
    least = config.strides[-1]
    if max(height, width) <= least:
        raise BadInputError(
            f"--image_size: images of {height} x {width} leave the last level a single position, of which batch norm "
            f"learns nothing; expected more than {least}, and {2 * least} or more is sensible."
        )


def check_devices(arguments: TrainingArguments) -> None:
    """Refuses one process for several GPUs, where every GPU would train by batch statistics that the others lose.

    Raises:
        BadInputError: naming their number.
    """
    if arguments.n_gpu > 1:
        raise BadInputError(
            f"One process sees {arguments.n_gpu} GPUs; start one for each by `accelerate launch scripts/train.py ...`, "
            "or show it one by CUDA_VISIBLE_DEVICES=0."
        )
