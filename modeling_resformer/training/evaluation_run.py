"""One evaluation of a checkpoint, by the Trainer that trains one too, from its arguments to the files of its results."""

import logging
import os
from contextlib import nullcontext
from pathlib import Path

import torch

from .. import ResFormerImageProcessor
from ..data.prepared import PreparedDataset, load_prepared
from ..data.rows import EvaluationRows
from ..errors import BadInputError, named_write_failure
from ..evaluation.evaluation import Scoring
from ..evaluation.per_case import write_per_case
from ..evaluation.raw_masks import RawMaskRows, mask_values_of
from ..evaluation.report_page import write_pages
from ..evaluation.results import write_results
from ..files import alone, check_writable
from ..image_processing_pil_resformer import content_box
from ..metrics.scores import Bootstrap
from ..rivals.rival_models import RivalModel
from .arguments import EvaluationArguments
from .building import (
    build_collator,
    build_image_processor,
    build_metrics,
    check_labels,
    load_model,
)
from .robustness import measure_robustness
from .run_checks import describe_contradiction
from .split_evaluation import evaluate_split
from .trainer import ResFormerTrainer
from .training_log import recall_training
from .validation_fits import fit_on_validation, fit_trust, warn_of_older_results, write_buffers, write_fitted


logger = logging.getLogger(__name__)


def evaluate(arguments: EvaluationArguments) -> None:
    if arguments.cpu_threads is not None:
        torch.set_num_threads(arguments.cpu_threads)
    output = Path(arguments.output)
    check_writable(output, "--output")
    with alone(output, "--output") if int(os.environ.get("RANK", "0")) == 0 else nullcontext():
        evaluate_alone(arguments, output)


def evaluate_alone(arguments: EvaluationArguments, output: Path) -> None:
    """As `evaluate`, while no other run writes there."""
    prepared = load_prepared(arguments.dataset, arguments.splits)
    model = load_model(arguments.model_name_or_path, arguments.task)
    image_processor = build_image_processor(arguments.model_name_or_path, arguments)
    trainer = ResFormerTrainer(
        model=model,
        args=arguments.as_training_arguments(),
        data_collator=build_collator(prepared, image_processor, model.config),
        processing_class=image_processor,
        compute_metrics=build_metrics(model, arguments.auc_classes),
    )
    check_arguments(arguments, trainer, prepared)
    log = recall_training(Path(arguments.model_name_or_path))
    rows = rows_to_score(arguments, prepared)
    if isinstance(rows, RawMaskRows):
        check_aspect_ratio(rows, image_processor)
    if arguments.fits:
        fitted, buffers = fit_on_validation(trainer, prepared.dataset, arguments), {}
        if arguments.fit_confidence:
            trust, buffers = fit_trust(trainer, prepared.dataset)
            fitted |= trust
        if trainer.is_world_process_zero():
            checkpoint = Path(arguments.model_name_or_path)
            with named_write_failure(checkpoint, "--model"):
                if buffers:
                    write_buffers(buffers, checkpoint)
                write_fitted(fitted, checkpoint)
            warn_of_older_results(trainer, checkpoint, output)
    scoring = Scoring(
        Bootstrap(arguments.bootstrap_samples),
        arguments.group_by,
        arguments.per_case_format,
        tuple(arguments.subgroups),
    )
    with named_write_failure(output, "--output"):
        evaluation = evaluate_split(trainer, prepared.dataset, arguments.split, scoring, rows)
        if evaluation is not None:
            write_per_case(evaluation, output)
            write_results(evaluation, output)
            write_pages(evaluation, output, log)
        if arguments.robustness:
            measure_robustness(trainer, prepared.dataset[arguments.split], arguments.split, output)
    trainer.accelerator.end_training()


def rows_to_score(arguments: EvaluationArguments, prepared: PreparedDataset) -> EvaluationRows:
    rows = prepared.dataset[arguments.split]
    if arguments.raw_masks is None:
        return EvaluationRows(rows)
    return RawMaskRows(
        rows, Path(arguments.raw_masks), mask_values_of(arguments.raw_mask_values, prepared.mask_classes)
    )


def check_aspect_ratio(rows: RawMaskRows, image_processor: ResFormerImageProcessor) -> None:
    """Refuses masks of another shape than the images where padding is cropped off by that shape.

    Raises:
        BadInputError: naming the first case.
    """
    if not image_processor.keep_aspect_ratio:
        return
    size = image_processor.size["height"], image_processor.size["width"]
    for row in rows.rows:
        image = row["image"]
        if content_box((image.height, image.width), size) != content_box(row["original_size"], size):
            height, width = row["original_size"]
            raise BadInputError(
                f"--raw_masks: the model keeps the aspect ratio, and case {row['case_id']} was squashed from {height} x "
                f"{width} to {image.height} x {image.width} by its preparation; prepare the dataset without --image-size"
            )


def check_arguments(arguments: EvaluationArguments, trainer: ResFormerTrainer, prepared: PreparedDataset) -> None:
    needed = [arguments.split, *(["validation"] if arguments.fits else [])]
    needed += ["train"] if arguments.fit_confidence else []
    if missing := sorted(set(needed) - set(prepared.dataset)):
        raise BadInputError(f"{arguments.dataset} has no {missing} split; it has {sorted(prepared.dataset)}.")
    check_fitting(arguments, trainer)
    if arguments.raw_masks and trainer.task.mask_logits is None:
        raise BadInputError("--raw_masks needs a model with masks; this one only classifies.")
    scoring = Scoring(Bootstrap(0), arguments.group_by, subgroups=tuple(arguments.subgroups))
    scoring.column(prepared.dataset[arguments.split])
    scoring.subgroup_columns(prepared.dataset[arguments.split])
    check_labels(trainer.model.config, trainer.task, prepared, arguments.dataset)
    scores_one_class = trainer.task.class_logits is not None and trainer.model.config.classes_exclude
    if scores_one_class and (sentence := describe_contradiction(prepared, arguments.split)):
        logger.warning("%s; this model names exactly one, and its loss leaves such rows out.", sentence)
    if arguments.fits and arguments.split == "validation":
        logger.warning(
            "%s and the scores come from the same rows: they will look too good.", ", ".join(arguments.fits)
        )


def check_fitting(arguments: EvaluationArguments, trainer: ResFormerTrainer) -> None:
    """Raises `BadInputError` where the model has not what is to be fitted."""
    for flag in ("--choose_thresholds", "--label_sets"):
        if flag in arguments.fits and trainer.task.class_logits is None:
            raise BadInputError(f"{flag} needs a model with image-level classes; this one only segments.")
    if arguments.choose_thresholds and trainer.model.config.classes_exclude:
        raise BadInputError(
            "--choose_thresholds: each image has exactly one of this model's classes, and the highest score decides; there "
            "is no threshold to choose."
        )
    if arguments.fit_confidence and (trainer.task.mask_logits is None or trainer.task.class_logits is None):
        raise BadInputError("--fit_confidence needs a model with masks and image-level classes.")
    if (arguments.calibrate or arguments.fit_confidence) and isinstance(trainer.model, RivalModel):
        raise BadInputError("--calibrate and --fit_confidence are for ResFormer, not for rivals.")
