"""The log of a training as the pages of an evaluation show it, from the Trainer or from what an earlier run left."""

import logging
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..evaluation.panels import TrainingLog


logger = logging.getLogger(__name__)


def training_log(state: TrainerState) -> TrainingLog:
    """The log of the Trainer, and of it the epoch whose weights were kept."""
    kept = [
        line["epoch"] for line in state.log_history if "eval_loss" in line and line["step"] == state.best_global_step
    ]
    return TrainingLog(state.log_history, kept[0] if kept else None)


def recall_training(checkpoint: Path) -> TrainingLog:
    """The log of the training that left a checkpoint, where it lies beside it.

    So the page of a later evaluation keeps the curves, and the epoch whose weights were kept.

    Args:
        checkpoint: folder of the model; a Hub id has no log.
    """
    path = checkpoint / TRAINER_STATE_NAME
    if not path.is_file():
        return TrainingLog()
    try:
        return training_log(TrainerState.load_from_json(str(path)))
    except (KeyError, OSError, TypeError, ValueError) as error:
        logger.warning("%s: no log of a training (%s); the page has no curves.", path, type(error).__name__)
        return TrainingLog()
