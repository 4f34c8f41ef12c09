"""Out-of-fold answers of all folds as one evaluation: every case as the one model answered it that never saw it.

Nothing is predicted again but the contours of the rows that the pages show: scores come from the `per_case.csv` that the
evaluation of each fold left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import concatenate_datasets

from ..data.fold_folders import fold_folders
from ..data.folds import Folds
from ..data.prepared import PreparedDataset
from ..data.rows import EvaluationRows
from ..evaluation.answers import Answers, Classes, ScoredRows
from ..evaluation.evaluation import Evaluation, Scoring
from ..evaluation.per_case import read_per_case
from ..evaluation.row_images import RowImages, learned_masks, read_images
from ..evaluation.shown_rows import ShownRows
from ..metrics.counts import Counts
from ..metrics.thresholds import mean_thresholds
from .arguments import EvaluationArguments
from .building import build_collator, build_image_processor, build_metrics, load_model
from .trainer import ResFormerTrainer


SPLIT = "out-of-fold"


def pool_folds(
    output: Path,
    folds: Folds,
    prepared: PreparedDataset,
    results: Sequence[Mapping[str, Any]],
    scoring: Scoring,
    auc_classes: Sequence[str] = (),
    use_cpu: bool = False,
) -> Evaluation:
    """One evaluation of all cases, at the mean of the folds' thresholds, 0.5 where none were chosen.

    Args:
        output: folder of the runs.
        folds: who was tested when.
        prepared: the dataset.
        results: `results.json` of every fold. Losses are their means, weighed by images.
        scoring: how the whole is scored.
        auc_classes: see `classification_scores`.
        use_cpu: draw on the CPU although there is an accelerator.

    Raises:
        BadInputError: a fold's files are missing, or tell of other rows.
    """
    data = [prepared.with_splits(folds.splits(fold), f"fold {fold} of {folds.number}") for fold in range(folds.number)]
    tested = [one.dataset["test"] for one in data]
    folders = list(fold_folders(output, folds.number))
    trainers = [_trainer(folder, one, use_cpu) for folder, one in zip(folders, data, strict=True)]
    configs = [trainer.model.config for trainer in trainers]
    classes = replace(
        Classes.of(configs[0], auc_classes if trainers[0].task.class_logits is not None else ()),
        thresholds=tuple(mean_thresholds([Classes.of(config).thresholds for config in configs])),
    )
    parts = [
        read_per_case(folder, classes, {name: rows[name] for name in ("case_id", "slice_index")})
        for folder, rows in zip(folders, tested, strict=True)
    ]
    whole = concatenate_datasets(tested)
    _, case_index = np.unique(whole["case_id"], return_inverse=True)
    scored = replace(ScoredRows.join(parts), row_index=np.arange(len(whole)), case_index=case_index)
    images = _images(data, parts, trainers, scored)
    return Evaluation.of(
        SPLIT, Answers(scored, classes, _mean_losses(results)), EvaluationRows(whole), images, scoring
    )


def _trainer(folder: Path, prepared: PreparedDataset, use_cpu: bool) -> ResFormerTrainer:
    """That of an evaluation, with the model of one fold."""
    model = load_model(str(folder), None)
    processor = build_image_processor(str(folder))
    return ResFormerTrainer(
        model=model,
        args=EvaluationArguments(output=str(folder), use_cpu=use_cpu).as_training_arguments(),
        data_collator=build_collator(prepared, processor, model.config),
        processing_class=processor,
        compute_metrics=build_metrics(model, ()),
    )


def _images(
    data: Sequence[PreparedDataset],
    parts: Sequence[ScoredRows],
    trainers: Sequence[ResFormerTrainer],
    scored: ScoredRows,
) -> RowImages:
    """What the images of each fold tell: its baselines learned from its own training split, its contours by its own model."""
    shown, start, found, drawn = ShownRows.of(scored), 0, [], {}
    for one, part, trainer in zip(data, parts, trainers, strict=True):
        config, learned = trainer.model.config, None
        if part.counts is not None:
            learned = learned_masks(
                one.dataset["train"], len(config.mask_class_names), config.semantic_loss_ignore_index
            )
        to_draw = {position - start for position in shown.positions if start <= position < start + len(part.row_index)}
        images = read_images(EvaluationRows(one.dataset["test"]), part, trainer.predict_mask, learned, to_draw=to_draw)
        found.append(images)
        drawn |= {start + position: image for position, image in images.drawn.items()}
        start += len(part.row_index)
    return RowImages(
        mask_resolution=found[0].mask_resolution,
        baselines={name: Counts.join([images.baselines[name] for images in found]) for name in found[0].baselines},
        pixel_areas=np.concatenate([images.pixel_areas for images in found]),
        shown=shown,
        drawn=drawn,
    )


def _mean_losses(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    images = np.array([result["images"] for result in results], dtype=np.float64)
    losses = {name: np.array([result["losses"][name] for result in results]) for name in results[0]["losses"]}
    return {name: float((values * images).sum() / images.sum()) for name, values in losses.items()}
