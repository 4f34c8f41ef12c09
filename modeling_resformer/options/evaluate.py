"""The flags of `scripts/evaluate.py`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..flags import MODEL, OneLineParser, add_fields
from .scoring import ScoringOptions


@dataclass
class EvaluationOptions(ScoringOptions):
    """What is evaluated, on what, and where the results go."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"aliases": ["--model"], "metavar": MODEL, "help": "Checkpoint folder or Hub id."},
    )
    dataset: str | None = field(
        default=None, metadata={"metavar": "FOLDER", "help": "Folder that scripts/prepare_*.py wrote."}
    )
    output: str | None = field(
        default=None, metadata={"metavar": "FOLDER", "help": "Folder for results.json and per_case.csv."}
    )
    split: str = field(default="test", metadata={"help": "Split of the dataset to evaluate."})
    task: str | None = field(
        default=None,
        metadata={"help": "multi_task, segmentation or classification; default what the checkpoint was trained for."},
    )
    choose_thresholds: bool = field(
        default=False,
        metadata={
            "help": "First choose the decision threshold of each image-level class, by balanced accuracy on the "
            "validation split, and write them to the checkpoint's config."
        },
    )
    raw_masks: str | None = field(
        default=None,
        metadata={
            "metavar": "FOLDER",
            "help": "Folder of the source's own mask files, named by case; scores are then computed at their size, not "
            "at that of the dataset's masks.",
        },
    )
    raw_mask_values: str | None = field(
        default=None,
        metadata={
            "help": "What the values of --raw_masks mean; default 0=background,255=CLASS for one foreground class, class "
            "indices for several."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Images a forward pass, on each process."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read images, beside each process."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads of torch on the CPU; default torch's own."}
    )
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU although there is an accelerator."})


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Raises `ValueError` for a mistake."""
    parser = OneLineParser(description)
    add_fields(parser, EvaluationOptions)
    parser.also("--output", "--output_dir")
    given = parser.parse_args(arguments)
    for name, flag in (("model_name_or_path", "--model"), ("dataset", "--dataset"), ("output", "--output")):
        if getattr(given, name) is None:
            raise ValueError(f"{flag} is missing; see evaluate.py --help.")
    return given
