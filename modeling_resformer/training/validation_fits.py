"""What is fitted to a trained model on the validation split and written into its config: calibration, thresholds, label sets."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers.utils import SAFE_WEIGHTS_NAME

from ..configuration_resformer import UNFITTED, ResFormerConfig
from ..data.rows import EvaluationRows
from ..errors import BadInputError
from ..evaluation.answers import Classes, completed_labels, is_right
from ..evaluation.evaluation_options import EvaluationOptions
from ..files import whole_file, write_whole
from ..metrics.familiarity import fit_features
from ..metrics.label_sets import choose_label_sets
from ..metrics.scaling import (
    FEW,
    Scaling,
    best_temperature,
    choose_scaling,
    fit_logistic,
    moved_thresholds,
    pixel_losses_by_temperature,
)
from ..metrics.thresholds import choose_thresholds, measured_elsewhere
from ..modeling_resformer import ResFormerFamiliarity, pooled_features
from .trainer import ResFormerTrainer


CLASS_CALIBRATION = ("classification_scale", "classification_shift")
DISTANCE_QUANTILE = 0.98  # of validation images that are not flagged as unlike the training images
REFUSED = 0.1  # of validation answers that are flagged as the least confident

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
    before = {name: getattr(config, name) for name in UNFITTED}
    fitted = {name: UNFITTED[name] for name in _outdated(trainer, wanted)}
    if before["confidence_weights"] is not None and "confidence_weights" in fitted and not wanted.fit_confidence:
        logger.warning("Confidence was fitted to other scores, so it is taken out; --fit_confidence fits it anew.")
    set_fields(config, fitted)
    trainer.evaluate(rows, metric_key_prefix="validation")
    if wanted.calibrate and trainer.task.mask_logits is not None:
        fitted["mask_temperature"] = mask_temperature(trainer, rows)
    if trainer.task.class_logits is not None:
        fitted |= _of_image_classes(trainer, config, wanted, before)
    set_fields(config, fitted)
    return fitted


def _outdated(trainer: ResFormerTrainer, wanted: EvaluationOptions) -> list[str]:
    """The fields that are fitted anew, or that were fitted to what calibration and thresholds made of the logits before."""
    fields = ["confidence_weights", "confidence_limit"] if wanted.calibrate or wanted.choose_thresholds else []
    if wanted.calibrate and trainer.task.class_logits is not None:
        fields += CLASS_CALIBRATION
    return [*fields, "mask_temperature"] if wanted.calibrate and trainer.task.mask_logits is not None else fields


def _of_image_classes(
    trainer: ResFormerTrainer, config: ResFormerConfig, wanted: EvaluationOptions, before: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of image-level classes, from what the trainer has just evaluated.

    A new calibration takes what was fitted `before` along: thresholds go on deciding as they did, and label sets are fitted
    anew for their level.
    """
    rows, names, fitted = trainer.compute_metrics.rows, config.image_class_names, {}
    logits, labels = rows.classification_logits.astype(np.float64), rows.class_labels
    labels = completed_labels(labels) if config.classes_exclude else labels
    level, thresholds = wanted.label_sets, before["classification_thresholds"]
    if wanted.calibrate:
        form, scaling, judged = choose_scaling(logits, labels, rows.case_index, config.classes_exclude)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in judged.items())
        logger.info("Calibration of the classes: %s (cross-fitted negative log likelihood: %s)", form, figures)
        logits = scaling(logits)
        fitted["classification_scale"] = None if form == "none" else scaling.scale.tolist()
        fitted["classification_shift"] = scaling.shift.tolist() if form == "scale and shift" else None
        level = before["label_set_level"] if level is None else level
        if thresholds is not None:
            former = Scaling.of(before["classification_scale"], before["classification_shift"], len(names))
            fitted["classification_thresholds"] = moved_thresholds(thresholds, former, scaling)
    probabilities = config.class_scores(torch.from_numpy(logits)).numpy()
    if wanted.choose_thresholds:
        fitted["classification_thresholds"] = choose_thresholds(probabilities, labels, names, wanted.sensitivity)
    if level is not None:
        fitted["label_set_thresholds"] = choose_label_sets(probabilities, labels, level, names)
        fitted["label_set_level"] = level
    return fitted


def mask_temperature(trainer: ResFormerTrainer, rows: EvaluationRows) -> float:
    """The temperature of the masks' logits with the least cross-entropy over the labelled pixels, at the model's input size."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    gathered = []
    for batch in trainer.get_eval_dataloader(rows):
        with torch.no_grad():
            logits = model(pixel_values=batch["pixel_values"].to(model.device, model.dtype))[trainer.task.mask_logits]
            labels = batch["mask_labels"].to(logits.device)
            ignored = model.config.semantic_loss_ignore_index
            of_rows = [pixel_losses_by_temperature(*one, ignored) for one in zip(logits.split(1), labels, strict=True)]
        gathered.append(trainer.accelerator.gather_for_metrics(torch.stack(of_rows)).cpu())
    *losses, pixels = torch.cat(gathered).double().sum(dim=0).tolist()
    if not pixels:
        logger.warning("No validation row has a mask, so that of masks stays uncalibrated.")
        return 1.0
    temperature = best_temperature(losses)
    logger.info("Calibration of the masks: temperature %.3f", temperature)
    return temperature


def fit_trust(
    trainer: ResFormerTrainer, dataset: datasets.DatasetDict
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Fit the distance from the training images on the training split, and the confidence on the validation split.

    Args:
        trainer: of a multi-task model, calibrated and with its thresholds; its model is given the buffers.
        dataset: both splits are predicted without augmentation.

    Returns:
        The fields of the config that were set, and the buffers by name in the model.
    """
    model, config = trainer.accelerator.unwrap_model(trainer.model), trainer.compute_metrics.config
    features = training_features(trainer, EvaluationRows(dataset["train"]))
    try:
        found = fit_features(features)
    except ValueError as error:
        raise BadInputError(f"--fit_confidence: {error}") from error
    set_fields(config, {"familiarity_components": len(found.variances), "confidence_weights": None})
    model.familiarity = ResFormerFamiliarity(config).to(model.device)
    for name in ("mean", "components", "variances"):
        getattr(model.familiarity, name).copy_(torch.from_numpy(getattr(found, name)))
    model.familiarity.noise.fill_(found.noise)
    trainer.evaluate(EvaluationRows(dataset["validation"]), metric_key_prefix="validation")
    rows, answers = trainer.compute_metrics.rows, trainer.compute_metrics.answers
    right = is_right(answers.rows, answers.classes)
    known = ~np.isnan(right)
    fields = {"familiarity_components": len(found.variances), "confidence_weights": None, "confidence_limit": None}
    fields["distance_limit"] = float(np.quantile(rows.distances, DISTANCE_QUANTILE))
    if min(right[known].sum(), (1 - right[known]).sum()) < FEW:
        logger.warning("Confidence is not fitted: fewer than %d validation answers are right, or wrong.", FEW)
    else:
        weights = fit_logistic(rows.signals[known].astype(np.float64), right[known])
        told = 1 / (1 + np.exp(-(weights[0] + rows.signals @ np.array(weights[1:]))))
        fields["confidence_weights"] = weights
        fields["confidence_limit"] = float(np.quantile(told, REFUSED))
    set_fields(config, fields)
    return fields, {f"familiarity.{name}": value for name, value in model.familiarity.state_dict().items()}


def training_features(trainer: ResFormerTrainer, rows: EvaluationRows) -> np.ndarray:
    """(N, C) pooled features of the rows, as float64."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    gathered = []
    for batch in tqdm(trainer.get_eval_dataloader(rows), desc="Features", disable=trainer.args.disable_tqdm):
        with torch.no_grad():
            pixels = batch["pixel_values"].to(model.device, model.dtype)
            maps = model(pixel_values=pixels, output_hidden_states=True).hidden_states
        gathered.append(trainer.accelerator.gather_for_metrics(pooled_features(maps)).float().cpu())
    return torch.cat(gathered).double().numpy()


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
        if value != UNFITTED[name]:
            config[name] = value
        elif config.get(name, value) != value:
            del config[name]
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    shown = {name: _rounded(value) for name, value in fitted.items() if value != UNFITTED[name]}
    logger.info("%s: %s", path, ", ".join(f"{name} = {value}" for name, value in shown.items()))


def write_buffers(buffers: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Put buffers into the one `model.safetensors` of a checkpoint, in the place of those of their names."""
    path = folder / SAFE_WEIGHTS_NAME
    with safe_open(path, "pt") as file:
        metadata, kept = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    together = {**kept, **{name: value.cpu().contiguous() for name, value in buffers.items()}}
    with whole_file(path) as beside:
        save_file(together, beside, metadata)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [round(one, 4) for one in value]
    if value is None:
        return "none"
    return round(value, 4)
