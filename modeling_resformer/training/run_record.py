"""`run.json`: how a checkpoint came about, for whoever has to report or repeat the run.

    {"format": 1,
     "task": "multi_task",
     "seeds": {"seed": 0, "data_seed": null},
     "settings": {...},            every argument that differs from its default, and the augmentation always: a recipe
                                   for `scripts/train.py`
     "model": {"class": "ResFormerForMultiTask", "rival": null, "parameters": ..., "trainable_parameters": ...,
               "initial_weights": {"checkpoint": null, "resnet": "microsoft/resnet-34"}},
     "code": {"version": ..., "commit": "..." or null, "modified": false or null},
     "libraries": {"python": "3.11.2", "torch": ..., "transformers": ..., ...},
     "hardware": {"device": "cpu", "name": ..., "processes": 1, "threads": 1, "cores": 2},
     "started": "2026-01-31T12:00:00Z", "duration_seconds": ..., "starts": 1,
     "training": {"rows": ..., "epochs": ..., "steps": ..., "batch_size": ...,
                  "selected": {"metric": "loss", "value": ..., "epoch": ..., "step": ...} or null},
     "dataset": {"name": "isic2017", "source": "isic2017", "config": "default", "modality": "dermoscopy" or null,
                 "licence": null, "split_rule": ...,
                 "mask_resolution": "native" or [height, width], "fingerprint": ...,
                 "near_duplicates": {"across_splits": {"identical": ..., "near_duplicate": ...}, "pictures": {"test": ...,
                                     ...}, ...} or null where nobody looked, "mask_classes": [...],
                 "class_labels": [...],
                 "splits": {"train": {"rows": ..., "cases": ..., "rows_with_mask": ..., "rows_with_labels": ...,
                                      "class_counts": {"melanoma": ..., ...},
                                      "rows_with_mask_class": {"lesion": ..., ...}}, ...}}}

A run that was resumed adds up the time of all its `starts`; what a kill threw away after the last checkpoint is not
counted. `commit` and `modified` are null where the code is not run from a git checkout. `batch_size` counts all processes
and accumulated micro-batches; `rows` are those of the training split that are annotated for the task. `selected` is null where the weights are simply the last. Paths, the names of users and
machines, and tokens stay out: of a path only the last part is kept, and arguments that are paths are no settings.
"""

import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import AcceleratorConfig

from .. import __version__
from ..data.columns import class_names
from ..data.prepared import PreparedDataset
from ..files import write_whole
from .arguments import TRAINING_DEFAULTS, DataArguments, ModelArguments


LIBRARIES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "numpy", "pillow")
# Where a run reads and writes, what belongs to one start of it, and what follows from other arguments.
NO_SETTINGS = {
    "dataset",
    "splits",
    "output_dir",
    "logging_dir",
    "run_name",
    "resume_from_checkpoint",
    "local_rank",
    "hub_model_id",
    "disable_tqdm",
    "dataloader_pin_memory",
    "yes",
    "do_eval",
}


class RunClock(TrainerCallback, ExportableState):
    """When a run began and how long it has worked, through kills and resumptions: checkpoints carry it on.

    Made at the start of the run and given to the Trainer as a callback.

    Args:
        started: UTC, ISO 8601; default now.
        seconds_before: time of earlier starts.
        starts: how often the run was started, this time included.
    """

    def __init__(self, started: str | None = None, seconds_before: float = 0.0, starts: int = 1) -> None:
        self.started = started or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.seconds_before = seconds_before
        self.starts = starts
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, those between two starts left out."""
        return self.seconds_before + time.monotonic() - self._begun

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        saved = {"started": self.started, "seconds_before": self.seconds, "starts": self.starts}
        return {"args": saved, "attributes": {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on from the checkpoint that is resumed, if one is."""
        name = type(self).__name__
        if state.global_step and (saved := state.stateful_callbacks.get(name)):
            self.started = saved["args"]["started"]
            self.seconds_before = saved["args"]["seconds_before"]
            self.starts = saved["args"]["starts"] + 1
        # The Trainer updates what the resumed checkpoint knew, and fails on what it did not.
        state.stateful_callbacks.setdefault(name, self.state())


def write_run_record(
    trainer: Trainer,
    prepared: PreparedDataset,
    model_args: ModelArguments,
    data_args: DataArguments,
    code: Mapping[str, Any],
) -> None:
    """Write `run.json` into the output folder; called on the main process when all else is done.

    Args:
        trainer: after training, with a `RunClock` among its callbacks.
        prepared: the dataset.
        model_args, data_args: of the run; the Trainer knows the other arguments.
        code: from `code_version`, asked for when the run began.
    """
    clock = next(one for one in trainer.callback_handler.callbacks if isinstance(one, RunClock))
    args, state = trainer.args, trainer.state
    record = {
        "format": 1,
        "task": model_args.task,
        "seeds": {"seed": args.seed, "data_seed": args.data_seed},
        "settings": recipe_of(model_args, data_args, args),
        "model": _describe_model(trainer.accelerator.unwrap_model(trainer.model), model_args),
        "code": dict(code),
        "libraries": library_versions(),
        "hardware": describe_hardware(args),
        "started": clock.started,
        "duration_seconds": round(clock.seconds, 1),
        "starts": clock.starts,
        "training": {
            "rows": len(trainer.train_dataset),
            "epochs": state.epoch,
            "steps": state.global_step,
            "batch_size": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            "selected": selection(args, state),
        },
        "dataset": describe_dataset(prepared, str(data_args.dataset)),
    }
    write_whole(Path(args.output_dir) / "run.json", json.dumps(record, indent=2) + "\n")


def recipe_of(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> dict[str, Any]:
    """Every argument that differs from its default, as plain JSON that `scripts/train.py` takes as a recipe."""
    settings = {}
    for arguments, values in (
        (model_args, vars(model_args)),
        (data_args, vars(data_args)),
        (training_args, training_args.to_dict()),
    ):
        for field in fields(arguments):
            value = values.get(field.name)
            if field.init and not _same_setting(value, _default(field)):
                settings[field.name] = value
    return {
        name: value
        for name, value in settings.items()
        if name not in NO_SETTINGS and not name.endswith("_token") and _is_json(value) and not _holds_path(value)
    }


def code_version() -> dict[str, Any]:
    """The package's version, and the commit it is run from with whether tracked files differ from it.

    Both are null where this file is not tracked by git: a package installed below somebody's project is not that
    project's commit.
    """
    commit = modified = None
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is not None:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
        modified = None if changes is None else bool(changes)
    return {"version": __version__, "commit": commit, "modified": modified}


def library_versions() -> dict[str, str]:
    """Version by name, of Python and of the libraries that are installed."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def selection(args: TrainingArguments, state: TrainerState) -> dict[str, Any] | None:
    """Which weights were kept and by which score on the validation split; None for the last ones."""
    if not args.load_best_model_at_end or state.best_metric is None:
        return None
    name = args.metric_for_best_model
    key = name if name.startswith("eval_") else f"eval_{name}"
    line = next((line for line in state.log_history if line.get(key) == state.best_metric), {})
    chosen = {"metric": name, "value": state.best_metric}
    return chosen | {"epoch": line.get("epoch"), "step": state.best_global_step or line.get("step")}


def describe_dataset(prepared: PreparedDataset, folder: str) -> dict[str, Any]:
    """What a reader must know of the data."""
    known = prepared.metadata
    return {
        "name": Path(folder).resolve().name,
        "source": known.get("source"),
        "config": known.get("config"),
        "modality": prepared.modality,
        "licence": known.get("licence", known.get("license")),
        "split_rule": known.get("split_rule"),
        "mask_resolution": known.get("mask_resolution"),
        "fingerprint": known.get("source_fingerprint"),
        "near_duplicates": known.get("near_duplicates"),
        "mask_classes": prepared.mask_classes,
        "class_labels": prepared.class_labels,
        "splits": {name: _describe_split(rows) for name, rows in prepared.dataset.items()},
    }


def _describe_split(rows: datasets.Dataset) -> dict[str, Any]:
    labels, masks = rows["class_labels"], rows["mask_classes"]
    return {
        "rows": len(rows),
        "cases": len(set(rows["case_id"])),
        "rows_with_mask": sum(row is not None for row in masks),
        "rows_with_labels": sum(row is not None for row in labels),
        "class_counts": _count(labels, class_names(rows.features, "class_labels")),
        "rows_with_mask_class": _count(masks, class_names(rows.features, "mask_classes"), first=1),
    }


def _count(lists: datasets.Column | list, names: list[str], first: int = 0) -> dict[str, int]:
    """How many of the lists hold each class, from class number `first` on."""
    counts = Counter(index for indices in lists if indices is not None for index in set(indices))
    return {name: counts[index] for index, name in enumerate(names) if index >= first}


def _describe_model(model: nn.Module, model_args: ModelArguments) -> dict[str, Any]:
    return {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "initial_weights": {
            "checkpoint": _without_folders(model_args.model_name_or_path),
            "resnet": _without_folders(model_args.init_resnet),
            "backbone": _without_folders(model_args.backbone),
        },
        "rival": model_args.rival,
        "teacher": _without_folders(model_args.distill_from),
    }


def describe_hardware(args: TrainingArguments) -> dict[str, Any]:
    """As `run.json` has it, see the top."""
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else _processor_name()
    return {
        "device": args.device.type,
        "name": name,
        "processes": args.world_size,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def _processor_name() -> str:
    """The CPU's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _default(field: Field) -> Any:
    """An argument's default, as `TrainingArguments.to_dict` would show it."""
    if field.name == "accelerator_config":
        return {k: v for k, v in AcceleratorConfig().to_dict().items() if k != "use_configured_state"}
    value = field.default if field.default_factory is MISSING else field.default_factory()
    value = TRAINING_DEFAULTS.get(field.name, value)
    return value.value if isinstance(value, Enum) else value


def _same_setting(value: Any, default: Any) -> bool:
    """Whether an argument has its default; there are several ways to say "none"."""
    return value == default or all(one is False or one in (None, "none", "", [], {}) for one in (value, default))


def _without_folders(name_or_path: str | None) -> str | None:
    """A Hub id as it is, of a local folder its own name."""
    if name_or_path is None or not Path(name_or_path).exists():
        return name_or_path
    return Path(name_or_path).resolve().name


def _holds_path(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_path, value.values()))
    return isinstance(value, str) and (os.path.isabs(value) or (os.sep in value and Path(value).exists()))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _git(*arguments: str) -> str | None:
    """What git says in the folder of this file; None where it fails or is missing."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
