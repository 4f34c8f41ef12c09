"""The flags of `scripts/train.py`, transformers' own `TrainingArguments` among them, and of `scripts/evaluate.py`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ..data.problems import BadInputError
from ..data.transforms import AUGMENTATIONS, Augmentation, default_augmentation
from .tasks import TASKS


# Defaults that differ from transformers': what ResFormerTrainer needs, and selection as the paper states it.
TRAINING_DEFAULTS = {
    "remove_unused_columns": False,
    "batch_eval_metrics": True,
    "label_names": ["mask_labels", "class_labels"],
    # Every parameter gets a gradient from every batch, so that DDP need not look for those that do not.
    "ddp_find_unused_parameters": False,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    # The best and the newest: should the one break, a killed run still has the other to go on from.
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
}
BY_MODALITY = "Default: what suits the dataset's modality, off where that is unknown."
# transformers takes every name that does not end in "loss" for one where more is better.
LESS_IS_BETTER = ("loss", "calibration_error", "false_positive_rate_empty", "volume_difference")


@dataclass
class ModelArguments:
    """Which model is trained, on how many threads, how long, and which of its weights are kept.

    Label names and their numbers come from the dataset.
    """

    task: str = field(
        default="multi_task", metadata={"help": "What to learn: multi_task, segmentation or classification."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint folder or Hub id to start from; default random weights."}
    )
    init_resnet: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a transformers ResNet, such as microsoft/resnet-34, whose weights fill the "
            "residual blocks that they fit; default random weights."
        },
    )
    config: dict | str | None = field(
        default=None, metadata={"help": "JSON object of ResFormerConfig fields; joined with the recipe's."}
    )
    class_weights: str | None = field(
        default=None,
        metadata={"help": "'balanced' weighs image-level class c by N / (K n_c), counted in the training part."},
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

    def __post_init__(self) -> None:
        self.config = _json_object("--config", self.config)
        if self.task not in TASKS:
            raise ValueError(f"--task is {self.task!r}; expected one of {', '.join(TASKS)}.")
        if self.init_resnet is not None and self.model_name_or_path is not None:
            raise ValueError(
                "--init_resnet and --model_name_or_path are both given; expected one, since the ResNet's weights would "
                "overwrite the checkpoint's."
            )
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"--cpu_threads is {self.cpu_threads}; expected 1 or more.")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"--early_stopping_patience is {self.early_stopping_patience}; expected 1 or more.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"--ema_decay is {self.ema_decay}; expected a number between 0 and 1, such as 0.999.")
        if self.class_weights not in (None, "balanced"):
            raise ValueError(
                f"--class_weights is {self.class_weights!r}; expected 'balanced'. "
                "For numbers of your own: --config '{\"class_weights\": [1, 2, 1]}'."
            )


@dataclass
class DataArguments:
    """What the model is trained and evaluated on."""

    dataset: str | None = field(default=None, metadata={"help": "Folder that scripts/prepare_*.py wrote."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels that pictures are squashed to; default the processor's own."}
    )
    # None: what suits the kind of picture that the dataset records, see data/transforms.py.
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
    auc_classes: list[str] = field(
        default_factory=list, metadata={"help": "Classes whose mean AUC is reported besides that of all classes."}
    )
    bootstrap_samples: int = field(
        default=1000, metadata={"help": "Resamplings behind each interval of the results; 0 for no intervals."}
    )
    group_by: str | None = field(
        default=None,
        metadata={"help": "Column whose values get scores of their own; default vendor, where the dataset has it."},
    )
    per_case_format: str = field(default="csv", metadata={"help": "Format of the lines per image: csv or parquet."})

    def __post_init__(self) -> None:
        if self.dataset is None:
            raise ValueError("--dataset is missing; give the folder that scripts/prepare_*.py wrote.")
        _check_per_case_format(self.per_case_format)
        Augmentation(**self.given_augmentation)

    @property
    def given_augmentation(self) -> dict[str, float]:
        """The fields of `Augmentation` that flags or the recipe set."""
        names = (one.name for one in fields(Augmentation))
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def augmentation(self, modality: str | None) -> Augmentation:
        """What may happen to a training picture of a kind: what was given, field by field, else the kind's own."""
        return replace(default_augmentation(modality), **self.given_augmentation)

    def with_augmentation(self, modality: str | None) -> "DataArguments":
        """These arguments with every field of the augmentation filled, as a record of the run must have them."""
        return replace(self, **asdict(self.augmentation(modality)))

    def explain_augmentation(self, modality: str | None) -> str:
        """One line for the log: what happens to training pictures, and why."""
        given, names = self.given_augmentation, [one.name for one in fields(Augmentation)]
        reasons = [f"{', '.join(given)} as given"] if given else []
        if len(given) < len(names):
            if modality in AUGMENTATIONS:
                reasons.append(f"{'else' if given else 'all'} the default for {modality}")
            else:
                kind = "unknown" if modality is None else f"{modality}, for which there are no defaults"
                cure = "" if modality else ", prepare the data with --modality or set them by flags"
                reasons.append(f"{'else' if given else 'all'} off, since the kind of the pictures is {kind}{cure}")
        return f"Augmentation: {self.augmentation(modality)} ({'; '.join(reasons)})."


@dataclass
class EvaluationArguments:
    """What `scripts/evaluate.py` evaluates, on what, and where the results go."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Checkpoint folder or Hub id."})
    dataset: str | None = field(default=None, metadata={"help": "Folder that scripts/prepare_*.py wrote."})
    output: str | None = field(default=None, metadata={"help": "Folder for results.json and per_case.csv."})
    split: str = field(default="test", metadata={"help": "Part of the dataset to evaluate."})
    task: str | None = field(
        default=None,
        metadata={"help": "multi_task, segmentation or classification; default what the checkpoint was trained for."},
    )
    choose_thresholds: bool = field(
        default=False,
        metadata={
            "help": "First choose the decision threshold of each image-level class, by balanced accuracy on the "
            "validation part, and write them to the checkpoint's config."
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels that pictures are squashed to; default the processor's own."}
    )
    auc_classes: list[str] = field(
        default_factory=list, metadata={"help": "Classes whose mean AUC is reported besides that of all classes."}
    )
    bootstrap_samples: int = field(
        default=1000, metadata={"help": "Resamplings behind each interval of the results; 0 for no intervals."}
    )
    group_by: str | None = field(
        default=None,
        metadata={"help": "Column whose values get scores of their own; default vendor, where the dataset has it."},
    )
    per_case_format: str = field(default="csv", metadata={"help": "Format of the lines per image: csv or parquet."})
    raw_masks: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the source's own mask files, named by case; scores are then computed at their size, not "
            "at that of the dataset's masks."
        },
    )
    raw_mask_values: str | None = field(
        default=None,
        metadata={
            "help": "What the values of --raw_masks mean; default 0=background,255=CLASS for one foreground class, class "
            "indices for several."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Pictures a forward pass, on each process."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read pictures, beside each process."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU although there is an accelerator."})

    def __post_init__(self) -> None:
        for name in ("model_name_or_path", "dataset", "output"):
            if getattr(self, name) is None:
                raise ValueError(f"--{name} is missing; see evaluate.py --help.")
        if self.task not in (None, *TASKS):
            raise ValueError(f"--task is {self.task!r}; expected one of {', '.join(TASKS)}.")
        _check_per_case_format(self.per_case_format)
        if self.raw_mask_values is not None and self.raw_masks is None:
            raise ValueError("--raw_mask_values says what the files of --raw_masks mean; give that folder too.")
        if self.choose_thresholds and not (Path(self.model_name_or_path) / "config.json").is_file():
            raise ValueError(
                f"--choose_thresholds writes to the checkpoint's config, and {self.model_name_or_path} is no folder "
                "with a config.json; for a Hub id, download it first (hf download ... --local-dir FOLDER)."
            )

    def as_training_arguments(self) -> TrainingArguments:
        """What the Trainer needs to know for an evaluation."""
        return TrainingArguments(
            output_dir=self.output,
            per_device_eval_batch_size=self.batch_size,
            dataloader_num_workers=self.num_workers,
            bf16=self.bf16,
            use_cpu=self.use_cpu,
            report_to="none",
            **{
                name: TRAINING_DEFAULTS[name]
                for name in ("remove_unused_columns", "batch_eval_metrics", "label_names")
            },
        )


def parse_arguments(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Read flags, behind an optional recipe: one flat JSON object of the same names. Flags win.

    Raises:
        BadInputError: the recipe is missing or holds a name that is no flag, or a value is of no use.
    """
    with _one_line():
        parser = _Parser((ModelArguments, DataArguments, TrainingArguments))
        parser.set_defaults(**TRAINING_DEFAULTS)
        arguments, recipe = list(arguments), {}
        if arguments and arguments[0].endswith(".json"):
            recipe = _read_recipe(Path(arguments.pop(0)), known=set(vars(parser.parse_args([]))))
        parser.set_defaults(**recipe)
        given = parser.parse_args(arguments)
        if given.greater_is_better is None:
            name = given.metric_for_best_model.removeprefix("eval_")
            parser.set_defaults(greater_is_better=not name.endswith("loss") and not name.startswith(LESS_IS_BETTER))
        model, data, training = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
        model.config = {**_json_object("config", recipe.get("config")), **model.config}
    if model.early_stopping_patience is not None and training.eval_strategy == "no":
        raise BadInputError("--early_stopping_patience needs evaluations; expected --eval_strategy epoch or steps.")
    return model, data, training


def parse_evaluation_arguments(arguments: Sequence[str]) -> EvaluationArguments:
    """Read the flags of `scripts/evaluate.py`.

    Raises:
        BadInputError: a flag is unknown or missing, or a value is of no use.
    """
    with _one_line():
        parsed = _Parser(EvaluationArguments).parse_args_into_dataclasses(arguments, look_for_args_file=False)
    return parsed[0]


def _check_per_case_format(name: str) -> None:
    if name not in ("csv", "parquet"):
        raise ValueError(f"--per_case_format is {name!r}; expected csv or parquet.")


class _Parser(HfArgumentParser):
    """Says what is wrong without the usage of some two hundred flags."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message}; see --help.")


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        raise BadInputError(" ".join(str(error).split())) from error


def _read_recipe(path: Path, known: set[str]) -> dict[str, Any]:
    recipe = _json_object(str(path), path.read_text(encoding="utf-8"))
    if unknown := sorted(set(recipe) - known):
        raise ValueError(f"{path} holds {unknown}, which are no arguments of train.py; see train.py --help.")
    return recipe


def _json_object(name: str, value: dict | str | None) -> dict[str, Any]:
    """A dict from JSON text or a dict; an empty one from None."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value or {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} is {parsed!r}; expected a JSON object.")
    return parsed
