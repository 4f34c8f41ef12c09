"""Decision thresholds of a checkpoint, chosen on the validation split and written into its config."""

import json
import logging
from pathlib import Path

import datasets

from ..data.rows import EvaluationRows
from ..evaluation.answers import Classes
from ..files import write_whole
from ..metrics.thresholds import choose_thresholds, measured_elsewhere
from .trainer import ResFormerTrainer


logger = logging.getLogger(__name__)


def choose_on_validation(trainer: ResFormerTrainer, dataset: datasets.DatasetDict) -> list[float]:
    """Choose a threshold for each image-level class, and set them in the config of the trainer's model.

    Args:
        trainer: of a model with image-level classes; its `compute_metrics` is an `EvaluationMetrics`.
        dataset: its validation split is evaluated; no other split is looked at.
    """
    trainer.evaluate(EvaluationRows(dataset["validation"]), metric_key_prefix="validation")
    rows, config = trainer.compute_metrics.answers.rows, trainer.compute_metrics.config
    config.classification_thresholds = choose_thresholds(
        rows.probabilities, rows.class_labels, config.image_class_names
    )
    return config.classification_thresholds


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


def write_thresholds(thresholds: list[float], folder: Path) -> None:
    """Set `classification_thresholds` in the `config.json` of a checkpoint, and nothing else."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["classification_thresholds"] = thresholds
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    logger.info("%s: classification_thresholds = %s", path, [round(threshold, 4) for threshold in thresholds])
