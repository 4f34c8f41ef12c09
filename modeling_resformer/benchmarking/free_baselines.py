"""Baselines that cost nothing, on the test split of every dataset of a grid, kept as cells are.

| row | masks | image-level classes |
|---|---|---|
| `constant_mask` | the class of the largest area, everywhere | |
| `mean_prior` | the most frequent class at each place of the training masks | how frequent each class is in the training split |
| `otsu` | darker than Otsu's threshold; only where there is one class | |
| `logistic_regression` | | on the pooled features of EfficientNet-Lite0, frozen at its ImageNet weights |
| `nearest_neighbour` | | the labels of the training image with the nearest features |

A row whose labels are read off a model's masks is made with the tables (`table_lines.py`).
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .. import ResFormerImageProcessor
from ..data.collation import class_label_row
from ..data.prepared import PreparedDataset, load_prepared
from ..data.row_choice import RowChoice
from ..data.rows import EvaluationRows
from ..errors import BadInputError
from ..evaluation.answers import Answers, Classes, ScoredRows, completed_labels
from ..evaluation.evaluation import Evaluation, Scoring
from ..evaluation.per_case import write_per_case
from ..evaluation.results import results_of
from ..evaluation.row_images import RowImages, learned_masks
from ..evaluation.shown_rows import ShownRows
from ..files import write_whole
from ..metrics.baselines import baseline_counts
from ..metrics.counts import Counts
from ..metrics.scores import Bootstrap
from ..training.imagenet import LITE_MEAN, LITE_STD, lite_state_dict
from .cell_runs import RECORD
from .grid import Grid


FEATURES = "efficientnet-lite0"
TEXTS = {
    "constant_mask": "constant mask",
    "mean_prior": "mean of the training split",
    "otsu": "Otsu's threshold",
    "logistic_regression": "logistic regression on frozen ImageNet features",
    "nearest_neighbour": "nearest neighbour on them",
}
OF_MASKS = {"everything_lesion": "constant_mask", "mean_training_mask": "mean_prior", "otsu_threshold": "otsu"}
BATCH = 16
SIDE = 224  # pixels that features are taken at

logger = logging.getLogger(__name__)


def baseline_folder(output: Path, dataset: str, name: str) -> Path:
    return output / "cells" / f"{dataset}-{name}-free"


def run_baselines(grid: Grid, data: Mapping[str, Path], output: Path, samples: int) -> None:
    """Scores every baseline that is not finished, on every dataset of the tables.

    Args:
        grid: whose datasets they are.
        data: prepared folder by source.
        output: as of `run_cells`.
        samples: of the bootstrap in their results.json.
    """
    for dataset in dict.fromkeys(name for table in grid.tables if table.baselines for name in table.datasets):
        if all(
            (baseline_folder(output, dataset, name) / RECORD).is_file() for name in ("mean_prior", "nearest_neighbour")
        ):
            continue
        logger.info("== baselines that cost nothing: %s", dataset)
        prepared = restricted(grid, dataset, data[grid.source(dataset)])
        for name, rows in baselines_of(prepared).items():
            keep_baseline(baseline_folder(output, dataset, name), name, rows, prepared, Bootstrap(samples))


def restricted(grid: Grid, dataset: str, folder: Path) -> PreparedDataset:
    """A prepared folder with the rows that a dataset of the grid takes, its classes of the kind that the grid's flags say."""
    given = grid.settings["datasets"][dataset].get("flags", {})
    flags = {**grid.settings.get("flags", {}), **given}
    config = {**grid.settings.get("flags", {}).get("config", {}), **given.get("config", {})}
    choice = RowChoice.of(flags.get("only"), flags.get("hold_out"))
    prepared = choice.applied_to(load_prepared(folder, flags.get("splits")), 0)
    kind = config.get("classification_type", prepared.classification_type)
    return replace(prepared, metadata={**prepared.metadata, "labels_exclusive": kind == "exclusive"})


def baselines_of(prepared: PreparedDataset) -> dict[str, ScoredRows]:
    """What every baseline answers on the test split, by name; those of masks or labels that nobody has are left out."""
    found: dict[str, dict] = {}
    if len(prepared.mask_classes) > 1:
        for name, counts in mask_baselines(prepared).items():
            found.setdefault(name, {})["counts"] = counts
    labels = {split: label_rows(prepared, split) for split in ("train", "test")}
    if (labels["train"] >= 0).any():
        for name, probabilities in label_baselines(prepared, labels["train"]).items():
            found.setdefault(name, {}).update(probabilities=probabilities, class_labels=labels["test"])
    _, case_index = np.unique(prepared.dataset["test"]["case_id"], return_inverse=True)
    rows = {"row_index": np.arange(len(case_index)), "case_index": case_index}
    return {name: ScoredRows(**rows, annotated=annotated_of(parts), **parts) for name, parts in found.items()}


def annotated_of(parts: Mapping[str, np.ndarray | Counts]) -> np.ndarray:
    """(N,) whether a row has anything that the parts are scored on."""
    of_masks = (parts["counts"].annotated > 0).any(axis=1) if "counts" in parts else False
    of_labels = (parts["class_labels"] >= 0).any(axis=1) if "class_labels" in parts else False
    return of_masks | of_labels


def mask_baselines(prepared: PreparedDataset) -> dict[str, Counts]:
    learned = learned_masks(prepared.dataset["train"], len(prepared.mask_classes), 255)
    counts = [baseline_counts(row, learned) for row in prepared.dataset["test"]]
    return {OF_MASKS[name]: Counts.join([one[name] for one in counts]) for name in counts[0]}


def label_rows(prepared: PreparedDataset, split: str) -> np.ndarray:
    """(N, K) 1 present, 0 absent, -100 unknown."""
    rows, number = prepared.dataset[split], len(prepared.class_labels)
    pairs = zip(rows["class_labels"], rows["class_labels_unknown"], strict=True)
    labels = np.stack([class_label_row(present, unknown or (), number).numpy() for present, unknown in pairs])
    return completed_labels(labels) if prepared.classification_type == "exclusive" else labels


def label_baselines(prepared: PreparedDataset, labels: np.ndarray) -> dict[str, np.ndarray]:
    """(N, K) probabilities on the test split, by baseline; `labels` (M, K) are those of the training split."""
    known, test = labels >= 0, len(prepared.dataset["test"])
    share = np.where(known, labels, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    found = {"mean_prior": np.tile(share, (test, 1))}
    seen, asked = (frozen_features(prepared, split) for split in ("train", "test"))
    found |= {"logistic_regression": np.tile(share, (test, 1)), "nearest_neighbour": np.tile(share, (test, 1))}
    for k in range(labels.shape[1]):
        rows = known[:, k]
        if len(np.unique(labels[rows, k])) == 2:
            for name, model in classifiers().items():
                found[name][:, k] = model.fit(seen[rows], labels[rows, k]).predict_proba(asked)[:, 1]
    return found


def classifiers() -> dict[str, object]:
    """Those of scikit-learn by baseline; raises `BadInputError` where it is not installed."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise BadInputError(
            "scikit-learn is not installed; run: pip install 'modeling-resformer[benchmark]'"
        ) from error
    return {
        "logistic_regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)),
        "nearest_neighbour": make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
    }


@torch.no_grad()
def frozen_features(prepared: PreparedDataset, split: str) -> np.ndarray:
    """(N, 1280) of EfficientNet-Lite0 before its last layer."""
    import timm

    network = timm.create_model(f"tf_efficientnet_lite{FEATURES[-1]}")
    network.load_state_dict(lite_state_dict(FEATURES))
    network.reset_classifier(0)
    network.eval()
    size = {"height": SIDE, "width": SIDE}
    processor = ResFormerImageProcessor(size=size, image_mean=LITE_MEAN, image_std=LITE_STD)
    rows = prepared.dataset[split].select_columns("image")
    features = []
    for start in tqdm(range(0, len(rows), BATCH), desc=f"features of the {split} split", leave=False):
        images = rows[start : start + BATCH]["image"]
        features.append(network(processor(images=images, return_tensors="pt")["pixel_values"]).numpy())
    return np.concatenate(features)


def keep_baseline(folder: Path, name: str, rows: ScoredRows, prepared: PreparedDataset, bootstrap: Bootstrap) -> None:
    """Writes results.json, per_case.csv and cell.json of a baseline."""
    masks, labels = tuple(prepared.mask_classes), tuple(prepared.class_labels)
    thresholds = None if prepared.classification_type == "exclusive" else (0.5,) * len(labels)
    classes = Classes(masks, labels, thresholds) if rows.probabilities is not None else Classes(masks)
    images = RowImages(None, {}, np.ones(len(rows.row_index)), ShownRows.of(rows), {})
    test = EvaluationRows(prepared.dataset["test"])
    evaluation = Evaluation.of("test", Answers(rows, classes, {}), test, images, Scoring(bootstrap))
    folder.mkdir(parents=True, exist_ok=True)
    write_per_case(evaluation, folder)
    write_whole(folder / "results.json", json.dumps(results_of(evaluation), indent=2) + "\n")
    record = {"cell": None, "baseline": name, "mask_classes": list(masks), "class_labels": list(labels)}
    write_whole(folder / RECORD, json.dumps(record, indent=2) + "\n")
