"""What the flags of training and evaluation come to, transformers' `TrainingArguments` among them."""

import json
import math
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ..data.row_choice import RowChoice
from ..data.transforms import AUGMENTATIONS, Augmentation, default_augmentation
from ..errors import BadInputError, one_line
from ..evaluation.evaluation_options import EvaluationOptions
from ..flags import Spellings, plain
from ..heads import TASKS
from ..metrics.score_table import is_better_lower
from ..rivals.rival_names import RivalName
from .recipes import find_recipe, is_recipe
from .training_options import DataOptions, ModelOptions, add_own


MOST_REASON = 500  # characters
# What parsers, and the checks of transformers' own arguments, raise on values of another kind.
ARGUMENT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
STARTS = {"model_name_or_path", "init_resnet", "backbone", "rival"}  # where weights come from, one or none of them
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


@dataclass
class ModelArguments(ModelOptions):
    """Which model is trained, on how many threads, how long, and which of its weights are kept.

    Label names and their numbers come from the dataset.
    """

    def __post_init__(self) -> None:
        self.config = _json_object("--config", self.config)
        if self.task not in TASKS:
            raise ValueError(f"--task is {self.task!r}; expected one of {', '.join(TASKS)}.")
        starts = {
            "--model": self.model_name_or_path,
            "--init_resnet": self.init_resnet,
            "--backbone": self.backbone,
            "--rival": self.rival,
        }
        given = [flag for flag, value in starts.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are given together; expected one, since the weights of one would overwrite the "
                "other's."
            )
        if self.rival is not None:
            RivalName.of(self.rival).check_task(self.task)
        elif self.pretrained:
            raise ValueError("--pretrained says how a --rival starts; give one, or --backbone.")
        if self.backbone_lr_scale is not None and not 0 <= self.backbone_lr_scale < math.inf:
            raise ValueError(f"--backbone_lr_scale is {self.backbone_lr_scale}; expected 0 or more, such as 0.3.")
        if not 0 <= self.freeze_backbone_epochs < math.inf:
            raise ValueError(f"--freeze_backbone_epochs is {self.freeze_backbone_epochs}; expected 0 or more.")
        if not 0 < self.distillation_weight < math.inf:
            raise ValueError(f"--distillation_weight is {self.distillation_weight}; expected a number above 0.")
        if not 0 <= self.mixup < math.inf:
            raise ValueError(f"--mixup is {self.mixup}; expected 0 or more, such as 0.2.")
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
class DataArguments(DataOptions):
    """What the model is trained and evaluated on."""

    def __post_init__(self) -> None:
        if self.dataset is None:
            raise ValueError("--dataset is missing; give the folder that scripts/prepare_*.py wrote.")
        _check_per_case_format(self.per_case_format)
        Augmentation(**self.given_augmentation)
        if not 0 < self.mask_share <= 1:
            raise ValueError(f"--mask_share is {self.mask_share}; expected a share above 0, 1 for all masks.")
        self.choice  # noqa: B018, refuses what is no COLUMN=VALUE

    @property
    def choice(self) -> RowChoice:
        """Which rows, and which of their masks, are used."""
        return RowChoice.of(self.only, self.hold_out, self.mask_share)

    @property
    def given_augmentation(self) -> dict[str, float | str]:
        """The fields of `Augmentation` that flags or the recipe set."""
        names = (one.name for one in fields(Augmentation))
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def augmentation(self, modality: str | None) -> Augmentation:
        """What may happen to a training image of a kind: what was given, field by field, else the kind's own."""
        return replace(default_augmentation(modality), **self.given_augmentation)

    def with_augmentation(self, modality: str | None) -> "DataArguments":
        """These arguments with every field of the augmentation filled, as a record of the run must have them."""
        return replace(self, **asdict(self.augmentation(modality)))

    def explain_augmentation(self, modality: str | None) -> str:
        """One line for the log: what happens to training images, and why."""
        given, names = self.given_augmentation, [one.name for one in fields(Augmentation)]
        reasons = [f"{', '.join(given)} as given"] if given else []
        if len(given) < len(names):
            if modality in AUGMENTATIONS:
                reasons.append(f"{'else' if given else 'all'} the default for {modality}")
            else:
                kind = "unknown" if modality is None else f"{modality}, for which there are no defaults"
                cure = "" if modality else ", prepare the data with --modality or set them by flags"
                reasons.append(f"{'else' if given else 'all'} off, since the kind of the images is {kind}{cure}")
        return f"Augmentation: {self.augmentation(modality)} ({'; '.join(reasons)})."


@dataclass
class EvaluationArguments(EvaluationOptions):
    """What is evaluated, on what, and where the results go."""

    def __post_init__(self) -> None:
        if self.task not in (None, *TASKS):
            raise ValueError(f"--task is {self.task!r}; expected one of {', '.join(TASKS)}.")
        _check_per_case_format(self.per_case_format)
        if self.is_by_others:
            wrong = [flag for flag, given in (("--model", self.model_name_or_path), ("--task", self.task)) if given]
            wrong += [*self.fits, *(["--robustness"] if self.robustness else [])]
            if wrong:
                raise ValueError(
                    f"--predictions and --scores take the place of a model; leave {' and '.join(wrong)} out."
                )
        if self.prediction_values is not None and self.predictions is None:
            raise ValueError("--prediction_values says what the files of --predictions mean; give that folder too.")
        if self.raw_mask_values is not None and self.raw_masks is None:
            raise ValueError("--raw_mask_values says what the files of --raw_masks mean; give that folder too.")
        for flag, share in (("--sensitivity", self.sensitivity), ("--label_sets", self.label_sets)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{flag} is {share}; expected a number between 0 and 1, such as 0.9.")
        if self.sensitivity is not None and not self.choose_thresholds:
            raise ValueError("--sensitivity says how thresholds are chosen; give --choose_thresholds too.")
        if self.fits and not (Path(self.model_name_or_path) / "config.json").is_file():
            raise ValueError(
                f"{self.fits[0]} writes to the checkpoint's config, and {self.model_name_or_path} is no folder "
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
            disable_tqdm=not sys.stderr.isatty(),
            **{
                name: TRAINING_DEFAULTS[name]
                for name in ("remove_unused_columns", "batch_eval_metrics", "label_names")
            },
        )


def parse_arguments(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Read flags and a recipe: one flat JSON object of the same names, anywhere among the flags. Flags win.

    Raises:
        BadInputError: the recipe is missing or holds a name that is no flag, or a value is of no use.
    """
    origin = _Origin()
    with _named_bad_arguments(origin):
        parser = _Parser((ModelArguments, DataArguments, TrainingArguments), add_help=False)
        add_own(parser)
        parser.also("--output_dir", "--output")
        parser.set_defaults(**TRAINING_DEFAULTS)
        # A bar that nobody watches fills a file with lines.
        parser.set_defaults(disable_tqdm=not sys.stderr.isatty())
        path, arguments = parser.take_recipe(arguments)
        recipe = {} if path is None else _read_recipe(path, parser.names())
        flags = {parser.names().get(flag) for flag in _flags_in(arguments)}
        recipe = _without_other_starts(recipe, flags)
        origin.path, origin.names, origin.flags = path, set(recipe) - flags, flags
        _check_kinds(recipe, parser)
        parser.set_defaults(**recipe)
        given = parser.parse_args(arguments)
        if given.help_all:
            parser.print_help()
            raise SystemExit(0)
        if given.greater_is_better is None:
            name = given.metric_for_best_model.removeprefix("eval_")
            # transformers takes every name that does not end in "loss" for one where more is better.
            parser.set_defaults(greater_is_better=not name.endswith("loss") and not is_better_lower(name))
        model, data, training, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
        model.config = {**_json_object("config", recipe.get("config")), **model.config}
    if model.early_stopping_patience is not None and training.eval_strategy == "no":
        raise BadInputError("--early_stopping_patience needs evaluations; expected --eval_strategy epoch or steps.")
    return model, data, training


def evaluation_arguments(given: Namespace) -> EvaluationArguments:
    """What the flags of an evaluation come to.

    Raises:
        BadInputError: a value is of no use.
    """
    with _named_bad_arguments():
        return EvaluationArguments(**vars(given))


def _check_per_case_format(name: str) -> None:
    if name not in ("csv", "parquet"):
        raise ValueError(f"--per_case_format is {name!r}; expected csv or parquet.")


class _Parser(Spellings, HfArgumentParser):
    """Says what is wrong without the usage of some two hundred flags."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{one_line(self.nearest(message), MOST_REASON)} see --help.")

    def names(self) -> dict[str, str]:
        """Of every flag in every spelling without its leading dashes, the name of its value."""
        return {
            spelling: action.dest
            for name, action in self.flags.items()
            for spelling in (name.removeprefix("--"), name.removeprefix("--").replace("-", "_"))
        }

    def take_recipe(self, arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
        """The recipe among the arguments, with its flag or without, and the other arguments.

        Raises:
            ValueError: there are several, or no such file.
        """
        recipes, others = [], []
        for argument in self.spelled(arguments):
            before = others[-1] if others else ""
            if before == "--recipe":
                others.pop()
                recipes.append(argument)
            elif argument.startswith("--recipe="):
                recipes.append(argument.partition("=")[2])
            elif is_recipe(argument) and not self._takes_text(before):
                recipes.append(argument)
            else:
                others.append(argument)
        if len(recipes) > 1:
            raise ValueError(f"{' and '.join(recipes)} are several recipes; expected one.")
        return (find_recipe(recipes[0]) if recipes else None), others

    def _takes_text(self, flag: str) -> bool:
        """Whether what follows a flag is its value whatever it is: it is no switch and no list."""
        known = [
            action for name, action in self.flags.items() if flag.startswith("--") and name.startswith(plain(flag))
        ]
        return any(action.nargs is None for action in known)


@dataclass
class _Origin:
    """Where arguments come from: a recipe, the names of it that no flag overrides, and the flags that were given."""

    path: Path | None = None
    names: set[str] = field(default_factory=set)
    flags: set[str | None] = field(default_factory=set)

    def named(self, message: str) -> str:
        """A message that names the recipe, unless it is about a flag that was given; defaults may clash with a recipe too."""
        about = {plain(flag).removeprefix("--").replace("-", "_") for flag in re.findall(r"--[A-Za-z][\w-]*", message)}
        is_given = bool(about & self.flags) and not about & self.names
        if self.path is None or not self.names or is_given or message.startswith(str(self.path)):
            return message
        return f"{self.path}: {message}"


@contextmanager
def _named_bad_arguments(origin: _Origin | None = None) -> Iterator[None]:
    origin = origin or _Origin()
    try:
        yield
    except BadInputError as error:
        raise BadInputError(origin.named(str(error))) from error
    except ARGUMENT_ERRORS as error:
        raise BadInputError(origin.named(one_line(error, MOST_REASON))) from error


def _flags_in(arguments: Sequence[str]) -> set[str]:
    """Those given, without their leading dashes."""
    return {word.removeprefix("--").partition("=")[0] for word in arguments if word.startswith("--")}


def _without_other_starts(recipe: Mapping[str, Any], given: set[str | None]) -> dict[str, Any]:
    """A recipe whose weights to start from give way to those of the command line, of whichever kind."""
    return {name: value for name, value in recipe.items() if name not in STARTS or not given & STARTS}


def _read_recipe(path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Values by the names that the parser has for them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({one_line(error)}); expected a JSON file in UTF-8.") from error
    recipe = _json_object(str(path), text)
    if unknown := sorted(set(recipe) - set(names)):
        shown = one_line(unknown, MOST_REASON)
        raise ValueError(f"{path}: holds {shown}, which are no arguments of train.py; see train.py --help-all.")
    return {names[name]: value for name, value in recipe.items()}


def _check_kinds(recipe: Mapping[str, Any], parser: "_Parser") -> None:
    """Refuses values of a kind that their flag does not take, such as a text for a number.

    Raises:
        ValueError: naming the argument.
    """
    actions = {action.dest: action for action in parser.flags.values()}
    for name, value in recipe.items():
        kind, is_list = (actions[name].type, actions[name].nargs in ("+", "*")) if name in actions else (None, False)
        if kind in (int, float) and isinstance(value, list | dict) and not is_list:
            raise ValueError(f"{name} is {one_line(repr(value), 60)}; expected one number.")
        values = value if isinstance(value, list) else [value]
        for one in values:
            is_number = isinstance(one, int | float) and not isinstance(one, bool)
            wrong = (kind in (int, float) and one is not None and not is_number) or (
                kind is int and isinstance(one, float) and not one.is_integer()
            )
            if is_number and not math.isfinite(one):
                wrong = True
            if wrong or (isinstance(one, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in one)):
                expected = {int: "a whole number", float: "a number"}.get(kind, "text or a finite number")
                raise ValueError(f"{name} is {one_line(repr(one), 60)}; expected {expected}.")


def _json_object(name: str, value: dict | str | None) -> dict[str, Any]:
    """A dict from JSON text or a dict; an empty one from None."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value or {}
    except (ValueError, RecursionError) as error:  # the latter of JSON nested too deep
        raise ValueError(f"{name} is not valid JSON: {one_line(error, 160)}.") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} is {one_line(repr(parsed), 60)}; expected a JSON object.")
    return parsed
