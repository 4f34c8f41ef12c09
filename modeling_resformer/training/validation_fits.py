"""What is fitted to a trained model on the validation split and written into its config: calibration, thresholds, label sets."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from ..configuration_resformer import UNFITTED, ResFormerConfig
from ..data.rows import EvaluationRows
from ..evaluation.answers import Classes, completed_labels
from ..evaluation.evaluation_options import EvaluationOptions
from ..files import write_whole
from ..metrics.label_sets import choose_label_sets
from ..metrics.scaling import best_temperature, choose_scaling, pixel_losses_by_temperature
from ..metrics.thresholds import choose_thresholds, measured_elsewhere
from .trainer import ResFormerTrainer


logger = logging.getLogger(__name__)


def fit_on_validation(
    trainer: ResFormerTrainer, dataset: datasets.DatasetDict, wanted: EvaluationOptions
) -> dict[str, Any]:
    """Fit what is wanted, in this order, each to what the one before left, and set it in the config of the trainer's model.

    Args:
        trainer: its `compute_metrics` is an `EvaluationMetrics`.
        dataset: its validation split is evaluated; no other split is looked at.
        wanted: `calibrate`, `choose_thresholds`, `sensitivity` and `label_sets` say what.

    Returns:
        The fields of the config that were set.
    """
    config, rows = trainer.compute_metrics.config, EvaluationRows(dataset["validation"])
    fitted: dict[str, Any] = {}
    if wanted.calibrate:
        fitted = dict(UNFITTED)
        set_fields(config, fitted)
    trainer.evaluate(rows, metric_key_prefix="validation")
    if wanted.calibrate and trainer.task.mask_logits is not None:
        fitted["mask_temperature"] = mask_temperature(trainer, rows)
    if trainer.task.class_logits is not None:
        fitted |= _of_image_classes(trainer, config, wanted)
    set_fields(config, fitted)
    return fitted


def _of_image_classes(trainer: ResFormerTrainer, config: ResFormerConfig, wanted: EvaluationOptions) -> dict[str, Any]:
    """The fields of image-level classes, from what the trainer has just evaluated."""
    rows, names, fitted = trainer.compute_metrics.rows, config.image_class_names, {}
    logits, labels = rows.classification_logits.astype(np.float64), rows.class_labels
    labels = completed_labels(labels) if config.classes_exclude else labels
    if wanted.calibrate:
        form, scaling, judged = choose_scaling(logits, labels, rows.case_index, config.classes_exclude)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in judged.items())
        logger.info("Calibration of the classes: %s (cross-fitted negative log likelihood: %s)", form, figures)
        logits = scaling(logits)
        fitted["classification_scale"] = None if form == "none" else scaling.scale.tolist()
        fitted["classification_shift"] = scaling.shift.tolist() if form == "scale and shift" else None
    probabilities = config.class_scores(torch.from_numpy(logits)).numpy()
    if wanted.choose_thresholds:
        fitted["classification_thresholds"] = choose_thresholds(probabilities, labels, names, wanted.sensitivity)
    if wanted.label_sets is not None:
        fitted["label_set_thresholds"] = choose_label_sets(probabilities, labels, wanted.label_sets, names)
        fitted["label_set_level"] = wanted.label_sets
    return fitted


def mask_temperature(trainer: ResFormerTrainer, rows: EvaluationRows) -> float:
    """The temperature of the masks' logits with the least cross-entropy over the labelled pixels, at the model's input size."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    total = torch.zeros((), dtype=torch.float64)
    for batch in trainer.get_eval_dataloader(rows):
        with torch.no_grad():
            logits = model(pixel_values=batch["pixel_values"].to(model.device, model.dtype))[trainer.task.mask_logits]
            labels = batch["mask_labels"].to(logits.device)
            losses = pixel_losses_by_temperature(logits, labels, model.config.semantic_loss_ignore_index)
        total = total + losses.cpu()
    *losses, pixels = trainer.accelerator.reduce(total.to(trainer.accelerator.device)).tolist()
    if not pixels:
        logger.warning("No validation row has a mask, so that of masks stays uncalibrated.")
        return 1.0
    temperature = best_temperature(losses)
    logger.info("Calibration of the masks: temperature %.3f", temperature)
    return temperature


def set_fields(config: ResFormerConfig, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        setattr(config, name, value)


def warn_of_older_results(trainer: ResFormerTrainer, folder: Path, output: Path) -> None:
    """Say in one line that a checkpoint's own results were measured at other thresholds than it has been given.

    Args:
        trainer: with the new thresholds in the config of its `compute_metrics`.
        folder: of the checkpoint.
        output: where the results at the new thresholds go; those in the checkpoint's folder would be replaced.
    """
    path, classes = folder / "results.json", Classes.of(trainer.compute_metrics.config)
    if folder.resolve() == output.resolve() or not path.is_file():
        return
    try:
        measured = json.loads(path.read_text(encoding="utf-8")).get("thresholds")
    except ValueError:  # cut short; publishing refuses it
        return
    if measured is not None and measured_elsewhere(classes.threshold_by_label, measured):
        logger.warning(
            "%s is out of date: its decisions were measured at %s; renew it by scripts/evaluate.py "
            "--model %s --dataset ... --output %s",
            *(path, {name: round(value, 4) for name, value in measured.items()}, folder, folder),
        )


def write_fitted(fitted: Mapping[str, Any], folder: Path) -> None:
    """Set these fields in the `config.json` of a checkpoint, and nothing else; those at their defaults are taken out."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in fitted.items():
        config[name] = value
        if value == UNFITTED[name]:
            del config[name]
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    shown = {name: _rounded(value) for name, value in fitted.items() if value != UNFITTED[name]}
    logger.info("%s: %s", path, ", ".join(f"{name} = {value}" for name, value in shown.items()))


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [round(one, 4) for one in value]
    return round(value, 4)
