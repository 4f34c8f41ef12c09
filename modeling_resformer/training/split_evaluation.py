"""The trained model on a split: what the processes gather becomes one `Evaluation`."""

import datasets

from ..data.rows import EvaluationRows
from ..evaluation.evaluation import Evaluation, Scoring
from ..evaluation.row_images import learned_masks, read_images
from .trainer import ResFormerTrainer


def evaluate_split(
    trainer: ResFormerTrainer,
    dataset: datasets.DatasetDict,
    split: str,
    scoring: Scoring,
    rows: EvaluationRows | None = None,
) -> Evaluation | None:
    """Evaluate one split on all processes.

    Args:
        trainer: its `compute_metrics` is an `EvaluationMetrics`.
        dataset: the prepared dataset, whose training split the baselines learn from.
        split: the split to evaluate.
        scoring: how.
        rows: of that split; `RawMaskRows` to score at the source's own size.

    Returns:
        None on all processes but the main one.
    """
    rows = EvaluationRows(dataset[split]) if rows is None else rows
    trainer.evaluate(rows, metric_key_prefix=split)
    answers, config, learned = trainer.compute_metrics.answers, trainer.compute_metrics.config, None
    main = trainer.is_world_process_zero()
    if main and answers.rows.counts is not None and "train" in dataset:
        learned = learned_masks(dataset["train"], len(answers.classes.masks), config.semantic_loss_ignore_index)
    images = read_images(rows, answers.rows, trainer.predict_mask, learned, only_shown=not main)
    return Evaluation.of(split, answers, rows, images, scoring) if main else None
