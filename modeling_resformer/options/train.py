"""The flags of `scripts/train.py` that are its own; those of transformers' `TrainingArguments` come on top."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..flags import MODEL, OneLineParser, Spellings, add_fields
from .scoring import ScoringOptions


RECIPES = Path(__file__).resolve().parents[2] / "scripts" / "recipes"
BY_MODALITY = "Default: what suits the dataset's modality, off where that is unknown."
FROM_THE_TRAINER = """
Of the Trainer's flags, which --help-all lists, those that most runs set:
  --output_dir FOLDER (or --output)                 --num_train_epochs N
  --per_device_train_batch_size N                   --gradient_accumulation_steps N
  --learning_rate X --weight_decay X                --lr_scheduler_type cosine --warmup_steps N
  --metric_for_best_model loss                      --resume_from_checkpoint true
  --bf16 --gradient_checkpointing --use_cpu         --dataloader_num_workers N --seed N

Dashes and underscores in flags are interchangeable. The recipe may stand anywhere; flags win over it.
"""


@dataclass
class ModelOptions:
    """Which model is trained, on how many threads, how long, and which of its weights are kept.

    Label names and their numbers come from the dataset.
    """

    task: str = field(
        default="multi_task", metadata={"help": "What to learn: multi_task, segmentation or classification."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "aliases": ["--model"],
            "metavar": MODEL,
            "help": "Checkpoint folder or Hub id to start from; default random weights.",
        },
    )
    init_resnet: str | None = field(
        default=None,
        metadata={
            "metavar": MODEL,
            "help": "Folder or Hub id of a transformers ResNet, such as microsoft/resnet-34, whose weights fill the "
            "residual blocks that they fit; default random weights.",
        },
    )
    config: dict | str | None = field(
        default=None,
        metadata={"metavar": "JSON", "help": "JSON object of ResFormerConfig fields; joined with the recipe's."},
    )
    class_weights: str | None = field(
        default=None,
        metadata={
            "metavar": "balanced",
            "help": "'balanced' weighs image-level class c by N / (K n_c), counted in the training split.",
        },
    )
    sync_batch_norm: bool = field(
        default=False,
        metadata={"help": "Pool the batch-norm statistics of all processes; needs GPUs, and pays for small batches."},
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={
            "help": "Threads of torch on the CPU; default torch's own. With as many threads as cores a small model "
            "crawls whenever another program is busy, because every thread waits for the one that was put off."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop when metric_for_best_model has not improved for this many evaluations in a row; default never."
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate, select and save an exponential moving average of the weights with this decay, such as "
            "0.999, in place of the weights themselves; default none."
        },
    )
    yes: bool = field(
        default=False, metadata={"help": "Go on although the memory that is free seems too little for the run."}
    )


@dataclass
class DataOptions(ScoringOptions):
    """What the model is trained and evaluated on."""

    dataset: str | None = field(
        default=None, metadata={"metavar": "FOLDER", "help": "Folder that scripts/prepare_*.py wrote."}
    )
    # None: what suits the kind of image that the dataset records, see data/transforms.py.
    rotation_degrees: float | None = field(
        default=None, metadata={"help": f"Largest angle of the random rotation; 0 for none. {BY_MODALITY}"}
    )
    horizontal_flip: float | None = field(
        default=None, metadata={"help": f"Probability of a left-right flip. {BY_MODALITY}"}
    )
    vertical_flip: float | None = field(
        default=None, metadata={"help": f"Probability of an upside-down flip. {BY_MODALITY}"}
    )
    scale_jitter: float | None = field(
        default=None,
        metadata={"help": f"Magnify by up to 1 + this, or shrink by as much; 0 for neither. {BY_MODALITY}"},
    )
    color_jitter: float | None = field(
        default=None,
        metadata={
            "help": f"Change brightness, contrast and saturation by up to this share; 0 for no change. {BY_MODALITY}"
        },
    )


def make_parser(description: str | None) -> OneLineParser:
    parser = OneLineParser(f"{description or ''}{FROM_THE_TRAINER}", add_help=False, usage=USAGE)
    add_own(parser)
    add_fields(parser, ModelOptions)
    add_fields(parser, DataOptions)
    return parser


USAGE = "%(prog)s [RECIPE.json] --dataset FOLDER --output_dir FOLDER [flags]"


def add_own(parser: Spellings) -> None:
    """Adds what is no field of any arguments."""
    parser.add_argument("-h", "--help", action="store_true", help="Show this.")
    parser.add_argument("--help-all", action="store_true", help="Show every flag, those of the Trainer among them.")
    parser.add_argument("--recipe", metavar="FILE", help="JSON file of flags, or a name in scripts/recipes.")


def parse(arguments: Sequence[str], description: str | None) -> None:
    """Answers `--help`, and looks for the recipe where it is plain which argument that is.

    What else is given can only be judged together with the Trainer's flags.

    Raises:
        ValueError: there is no such recipe.
    """
    if "-h" in arguments or "--help" in arguments:
        make_parser(description).print_help()
        sys.exit(0)
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before == "--recipe" or (not before and is_recipe(argument)):
            find_recipe(argument)
        elif argument.startswith("--recipe="):
            find_recipe(argument.partition("=")[2])


def is_recipe(argument: str) -> bool:
    """Whether an argument without a flag is meant as one: a JSON file, or a name in `scripts/recipes`."""
    return not argument.startswith("--") and (argument.endswith(".json") or argument in recipe_names())


def find_recipe(name: str) -> Path:
    """The file of a recipe, which is looked up in `scripts/recipes` where there is no such file, with its ending or without.

    Raises:
        ValueError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.name == name and path.name.removesuffix(".json") in recipe_names():
        return RECIPES / f"{name.removesuffix('.json')}.json"
    raise ValueError(
        f"{name}: there is no such recipe; expected a JSON file, or one of scripts/recipes: {', '.join(recipe_names())}."
    )


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.json"))
