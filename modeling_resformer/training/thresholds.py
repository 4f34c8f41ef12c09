"""Decision thresholds of a checkpoint, chosen on the validation part and written into its config."""

import json
import logging
from pathlib import Path

import datasets

from ..metrics.thresholds import choose_thresholds
from .results import replace_text
from .rows import EvaluationRows
from .trainer import ResFormerTrainer


logger = logging.getLogger(__name__)


def choose_on_validation(trainer: ResFormerTrainer, dataset: datasets.DatasetDict) -> list[float]:
    """Choose a threshold for each image-level class, and set them in the config of the trainer's model.

    Args:
        trainer: of a model with image-level classes; its `compute_metrics` is an `EvaluationMetrics`.
        dataset: its validation part is evaluated; no other part is looked at.
    """
    trainer.evaluate(EvaluationRows(dataset["validation"]), metric_key_prefix="validation")
    rows, config = trainer.compute_metrics.rows, trainer.compute_metrics.config
    config.classification_thresholds = choose_thresholds(
        rows.probabilities, rows.class_labels, config.image_class_names
    )
    return config.classification_thresholds


def write_thresholds(thresholds: list[float], folder: Path) -> None:
    """Set `classification_thresholds` in the `config.json` of a checkpoint, and nothing else."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["classification_thresholds"] = thresholds
    replace_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    logger.info("%s: classification_thresholds = %s", path, [round(threshold, 4) for threshold in thresholds])
