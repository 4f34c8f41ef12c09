"""Model, processor, collator and metrics for a dataset: the one place where its names meet those of the config."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor

from .. import ResFormerConfig, ResFormerImageProcessor
from ..configuration_resformer import UNFITTED
from ..data.class_weights import balanced_class_weights
from ..data.collation import MultiTaskCollator
from ..data.prepared import PreparedDataset
from ..errors import BadInputError, named_load_failure, one_line
from ..evaluation.evaluation_metrics import EvaluationMetrics
from ..evaluation.evaluation_options import ScoringOptions
from ..heads import TASKS, Task, task_named, task_of
from ..modeling_resformer import ResFormerPreTrainedModel
from ..rivals.rival_models import RivalConfig
from .arguments import ModelArguments
from .distillation import Teacher
from .imagenet import BackboneStart, fill_backbone
from .rival_start import RivalPixels, build_rival, load_rival
from .starting import start_from_checkpoint


logger = logging.getLogger(__name__)

NO_MASK_CLASS = "foreground"  # of a config whose dataset has no masks
CHECKPOINT = "the folder or Hub id of a ResFormer checkpoint"


def build_model(
    arguments: ModelArguments,
    prepared: PreparedDataset,
    start: BackboneStart | None = None,
    image_size: int | None = None,
) -> ResFormerPreTrainedModel:
    """The model of a task with the dataset's labels, from random weights, a checkpoint, or around a backbone's start.

    Heads of a checkpoint that were made for other labels start from random weights, and one line of the log names them.

    Args:
        arguments: of the run.
        prepared: the dataset.
        start: of the backbone, if there is one.
        image_size: side of the images in pixels, for which some rivals are made; default 224.

    Raises:
        BadInputError: there is no such checkpoint or rival, or a field of the config is unknown or of no use.
    """
    task = TASKS[arguments.task]
    settings = {
        **_mask_classes(arguments, prepared),
        "classification_labels": prepared.class_labels,
        **({} if start is None else {"backbone_config": start.backbone_config}),
        "classification_type": prepared.classification_type,
        **arguments.config,
    }
    if task.class_logits is not None and len(prepared.class_labels) > 1:
        logger.info("%s", prepared.explain_classification_type(arguments.config.get("classification_type")))
    if arguments.class_weights == "balanced" and task.class_logits is not None:
        settings["class_weights"] = balanced_class_weights(prepared.dataset["train"])
    if arguments.rival is not None:
        return build_rival(arguments, settings, image_size)
    config = _build_config(arguments.model_name_or_path, settings)
    if arguments.model_name_or_path is not None:
        before = _load_config(arguments.model_name_or_path)
        with named_load_failure("--model", arguments.model_name_or_path, CHECKPOINT):
            return start_from_checkpoint(task.model_class, arguments.model_name_or_path, config, before)
    with _config_failure():
        model = task.model_class(config)
    if start is not None:
        filled, parameters = fill_backbone(model, start), sum(tensor.numel() for tensor in model.state_dict().values())
        logger.info(
            "Start from %s: %s numbers of the backbone; %s of the other parts are random.",
            *(start.name, f"{filled:,}", f"{parameters - filled:,}"),
        )
    return model


def _mask_classes(arguments: ModelArguments, prepared: PreparedDataset) -> dict[str, Any]:
    """The dataset's, as a field of the config. One without masks has none: there a checkpoint keeps its own, and a new
    config, which needs one, is given a name that the classification head never speaks.
    """
    if len(prepared.mask_classes) > 1:
        return {"id2label": dict(enumerate(prepared.mask_classes))}
    return {} if arguments.model_name_or_path else {"id2label": {0: prepared.mask_classes[0], 1: NO_MASK_CLASS}}


def synchronise_batch_norms(model: ResFormerPreTrainedModel, arguments: TrainingArguments) -> None:
    """Let the batch norms of a model pool their statistics over all processes. Names in its checkpoints stay the same.

    Raises:
        BadInputError: the processes are on CPUs, where torch cannot.
    """
    if arguments.device.type == "cpu" and arguments.world_size > 1:
        raise BadInputError(
            "--sync_batch_norm: torch synchronises batch norm on GPUs only, and this run is on CPUs; leave it out."
        )
    if arguments.world_size == 1:
        logger.warning("--sync_batch_norm changes nothing: there is one process.")
        return
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)


def load_model(name_or_path: str, task: str | None) -> ResFormerPreTrainedModel:
    """A checkpoint as it is, in the class of a task; by default in the class it was saved from.

    Raises:
        BadInputError: there is no such checkpoint, or its class has no task.
    """
    with named_load_failure("--model", name_or_path, CHECKPOINT):
        config = _load_config(name_or_path)
        if isinstance(config, RivalConfig):
            return load_rival(name_or_path, config, task).to(memory_format=torch.channels_last)
        saved_from = (config.architectures or [TASKS["multi_task"].model_class.__name__])[0]
        model_class = task_named(saved_from).model_class if task is None else TASKS[task].model_class
        return model_class.from_pretrained(name_or_path).to(memory_format=torch.channels_last)


def build_image_processor(
    name_or_path: str | None,
    options: ScoringOptions | None = None,
    start: BackboneStart | RivalPixels | None = None,
) -> ResFormerImageProcessor:
    """The processor of a checkpoint, or a new one, with the settings that are given; `image_size` is a square's side.

    It normalises as a backbone's start was trained.
    """
    options = ScoringOptions() if options is None else options
    side = options.image_size
    settings: dict[str, Any] = {} if side is None else {"size": {"height": side, "width": side}}
    for name in ("keep_aspect_ratio", "keep_largest_component"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    if start is not None:
        settings |= {"image_mean": start.image_mean, "image_std": start.image_std}
    if name_or_path is None:
        return ResFormerImageProcessor(**settings)
    with named_load_failure("--model", name_or_path, CHECKPOINT):
        return ResFormerImageProcessor.from_pretrained(name_or_path, **settings)


def build_teacher(arguments: ModelArguments, student: ResFormerPreTrainedModel) -> Teacher | None:
    """The model of `--distill_from`, if there is one.

    Raises:
        BadInputError: there is no such checkpoint, or it answers something else than the student learns.
    """
    name = arguments.distill_from
    if name is None:
        return None
    with named_load_failure("--distill_from", name, CHECKPOINT):
        processor = ResFormerImageProcessor.from_pretrained(name)
        teacher = Teacher.of(load_model(name, None), processor, arguments.distillation_weight)
    teacher.check(name, student.config, task_of(student))
    return teacher


def build_collator(
    prepared: PreparedDataset,
    image_processor: BaseImageProcessor,
    config: ResFormerConfig,
    teacher: Teacher | None = None,
) -> MultiTaskCollator:
    """The collator of a dataset, with every case once, in a fixed order."""
    cases = sorted({case_id for rows in prepared.dataset.values() for case_id in rows["case_id"]})
    return MultiTaskCollator(
        image_processor,
        len(prepared.class_labels),
        cases,
        config.semantic_loss_ignore_index,
        None if teacher is None else teacher.image_processor,
    )


def build_metrics(model: ResFormerPreTrainedModel, auc_classes: Sequence[str]) -> EvaluationMetrics:
    """The metrics of a model; `auc_classes` mean nothing to one that only segments.

    Raises:
        BadInputError: `auc_classes` names a class that the model does not know.
    """
    if task_of(model).class_logits is None:
        return EvaluationMetrics(model.config)
    names = model.config.image_class_names
    if missing := [name for name in auc_classes if name not in names]:
        raise BadInputError(f"--auc_classes names {missing}; expected some of the classes {names}.")
    return EvaluationMetrics(model.config, auc_classes)


def check_labels(config: ResFormerConfig, task: Task, prepared: PreparedDataset, folder: str) -> None:
    """Refuses to score a model on a dataset of other labels.

    Raises:
        BadInputError: naming both.
    """
    for logits, kind, known, given in (
        (task.mask_logits, "mask classes", config.mask_class_names, prepared.mask_classes),
        (task.class_logits, "image-level classes", config.image_class_names, prepared.class_labels),
    ):
        if logits is not None and known != given:
            raise BadInputError(
                f"The model's {kind} are {known}, those of {folder} are {given}; expected the same in the same order. "
                "Prepare the dataset with these names, or evaluate the other task alone by --task."
            )


def _build_config(name_or_path: str | None, settings: dict[str, Any]) -> ResFormerConfig:
    """A shared config with these fields, on top of a checkpoint's if there is one."""
    if unknown := sorted(set(settings) - {field.name for field in fields(ResFormerConfig)}):
        raise BadInputError(f"--config holds {unknown}, which are no fields of ResFormerConfig.")
    with _config_failure():
        if name_or_path is None:
            return ResFormerConfig(**settings)
        # Thresholds and calibration were fitted to weights that training will change.
        settings = {**UNFITTED, **settings}
        # The shared view, since an `id2label` handed to `from_pretrained` means the head of the class being loaded.
        config = _load_config(name_or_path, **settings).as_shared()
        config.check()
        return config


@contextmanager
def _config_failure() -> Iterator[None]:
    try:
        yield
    except BadInputError:
        raise
    except (ValueError, StrictDataclassError) as error:
        raise BadInputError(f"--config: {one_line(error)}") from error


def _load_config(name_or_path: str, **settings: Any) -> ResFormerConfig:
    with named_load_failure("--model", name_or_path, CHECKPOINT):
        found, _ = ResFormerConfig.get_config_dict(name_or_path)
    if found.get("model_type") == RivalConfig.model_type:
        return RivalConfig.from_pretrained(name_or_path, **settings)
    if found.get("model_type") != ResFormerConfig.model_type:
        raise BadInputError(f"--model {name_or_path} is a {found.get('model_type')!r} model; expected {CHECKPOINT}.")
    return ResFormerConfig.from_pretrained(name_or_path, **settings)
