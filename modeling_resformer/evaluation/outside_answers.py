"""What another program answered, scored as our models are: masks from a folder, scores of image-level classes from a table."""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.collation import class_label_row
from ..data.label_tables import read_table, spelling_key
from ..data.predicted_masks import FLAG, PredictedMasks
from ..data.prepared import PreparedDataset, load_prepared
from ..data.rows import EvaluationRows
from ..errors import BadInputError, named_write_failure
from ..files import check_writable
from ..metrics.counts import Counts, mask_counts
from ..metrics.scores import Bootstrap
from .answers import Answers, Classes, ScoredRows, completed_labels
from .evaluation import Evaluation, Scoring
from .evaluation_options import EvaluationOptions
from .per_case import write_per_case
from .raw_masks import RawMaskRows, mask_values_of
from .report_page import write_pages
from .results import write_results
from .row_images import learned_masks, read_images
from .shown_rows import ShownRows


IGNORED = 255  # of masks: pixels that nobody annotated
THRESHOLD = 0.5

logger = logging.getLogger(__name__)


def evaluate_predictions(options: EvaluationOptions) -> None:
    """Scores `--predictions` and `--scores`, and writes what the evaluation of a model writes.

    Raises:
        BadInputError: a file is missing or means nothing.
    """
    output = Path(options.output)
    check_writable(output, "--output")
    prepared = load_prepared(options.dataset, options.splits)
    if options.split not in prepared.dataset:
        raise BadInputError(f"{options.dataset} has no {options.split} split; it has {sorted(prepared.dataset)}.")
    rows, table = rows_scored(options, prepared), prepared.dataset[options.split]
    names = table["case_id"], table["slice_index"]
    masks = None
    if options.predictions is not None:
        values = prediction_values(options.prediction_values, prepared.mask_classes)
        masks = PredictedMasks(Path(options.predictions), values)
    scored = scored_rows(options, prepared, rows, masks)
    labels = tuple(prepared.class_labels) if scored.probabilities is not None else ()
    thresholds = None if labels and prepared.classification_type == "exclusive" else (THRESHOLD,) * len(labels)
    classes = Classes(tuple(prepared.mask_classes), labels, thresholds, tuple(options.auc_classes if labels else ()))
    if missing := set(classes.auc) - set(labels):
        raise BadInputError(f"--auc_classes names {sorted(missing)}; expected some of the classes {list(labels)}.")
    learned = None
    if masks is not None and "train" in prepared.dataset:
        learned = learned_masks(prepared.dataset["train"], len(prepared.mask_classes), IGNORED)
    drawn = iter(sorted(ShownRows.of(scored).positions))
    alone = only_rows(names[0])

    def predict(image: Image.Image, size: tuple[int, int]) -> np.ndarray | None:
        position = next(drawn)
        found = None if masks is None else masks.of(names[0][position], names[1][position], alone[position])
        return None if found is None else resized_indices(found, size)

    images = read_images(rows, scored, predict, learned)
    scoring = Scoring(
        Bootstrap(options.bootstrap_samples), options.group_by, options.per_case_format, tuple(options.subgroups)
    )
    evaluation = Evaluation.of(options.split, Answers(scored, classes, {}), rows, images, scoring)
    with named_write_failure(output, "--output"):
        output.mkdir(parents=True, exist_ok=True)
        write_per_case(evaluation, output)
        write_results(evaluation, output)
        write_pages(evaluation, output)


def rows_scored(options: EvaluationOptions, prepared: PreparedDataset) -> EvaluationRows:
    rows = prepared.dataset[options.split]
    if options.raw_masks is None:
        return EvaluationRows(rows)
    return RawMaskRows(rows, Path(options.raw_masks), mask_values_of(options.raw_mask_values, prepared.mask_classes))


def prediction_values(text: str | None, mask_classes: list[str]) -> dict[int, int]:
    """Pixel value -> class index: what the flag says, else class indices, and 255 too for the only foreground class."""
    if text is not None:
        return mask_values_of(text, mask_classes)
    return mask_values_of(None, mask_classes) | {index: index for index in range(len(mask_classes))}


def scored_rows(
    options: EvaluationOptions, prepared: PreparedDataset, rows: EvaluationRows, masks: PredictedMasks | None
) -> ScoredRows:
    """The rows of the split with their counts and scores."""
    table = prepared.dataset[options.split]
    _, case_index = np.unique(table["case_id"], return_inverse=True)
    annotated = np.zeros(len(table), dtype=bool)
    counts = probabilities = labels = None
    if masks is not None:
        counts = Counts.join(list(counts_of(rows, masks, len(prepared.mask_classes))))
        annotated |= (counts.annotated > 0).any(axis=1)
    if options.scores is not None:
        probabilities = read_scores(Path(options.scores), prepared, options.split)
        pairs = zip(table["class_labels"], table["class_labels_unknown"], strict=True)
        number = len(prepared.class_labels)
        labels = np.stack([class_label_row(present, unknown or (), number).numpy() for present, unknown in pairs])
        labels = completed_labels(labels) if prepared.classification_type == "exclusive" else labels
        annotated |= (labels >= 0).any(axis=1)
    return ScoredRows(np.arange(len(table)), case_index, annotated, counts, probabilities, labels)


def counts_of(rows: EvaluationRows, masks: PredictedMasks, num_classes: int) -> Iterator[Counts]:
    """(1, S) of every row, at the size of the true mask; zeros for a row without one."""
    alone, other_sizes = only_rows(rows.rows["case_id"]), 0
    for position in range(len(rows)):
        row = rows[position]
        true = row.get("raw_mask") or row["mask"]
        if true is None:
            yield Counts(*(np.zeros((1, num_classes), dtype=np.int64) for _ in range(4)))
            continue
        true = np.asarray(true, dtype=np.int64)
        found = masks.of(row["case_id"], row["slice_index"], alone[position])
        if found is None:
            number = "" if alone[position] else f", slice {row['slice_index']}"
            raise BadInputError(
                f"{FLAG} {masks.folder}: no mask of case {row['case_id']}{number}; expected one for every annotated image"
            )
        other_sizes += found.shape != true.shape
        yield mask_counts(resized_indices(found, true.shape)[None], true[None], num_classes, IGNORED)
    if other_sizes:
        logger.warning(
            "%d predicted masks have another size than the true ones and were resized to them, each pixel that of the nearest; "
            "--raw_masks scores at the source's own size.",
            other_sizes,
        )


def only_rows(case_ids: list[str]) -> list[bool]:
    """Whether each row is the only one of its case."""
    rows_of = Counter(case_ids)
    return [rows_of[case_id] == 1 for case_id in case_ids]


def resized_indices(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class indices (H, W) at another size (height, width), each pixel that of the nearest."""
    if mask.shape == tuple(size):
        return mask.astype(np.int64)
    image = Image.fromarray(mask.astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(image, dtype=np.int64)


def read_scores(path: Path, prepared: PreparedDataset, split: str) -> np.ndarray:
    """(N, K) scores of the rows of a split.

    Raises:
        BadInputError: a column or a row is missing or comes twice, or a score lies outside 0..1.
    """
    if not path.is_file():
        raise BadInputError(f"--scores {path}: no such file; expected a CSV with case_id and a column for each class")
    lines = read_table(path, ["case_id", *prepared.class_labels])
    by_slice = bool(lines) and "slice_index" in lines[0]
    found: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        key = spelling_key(line["case_id"]), int(line["slice_index"] or 0) if by_slice else 0
        if key in found:
            raise BadInputError(f"{path}: case {line['case_id']} comes twice; give slice_index too, or keep one")
        found[key] = [as_score(path, line["case_id"], name, line[name]) for name in prepared.class_labels]
    table = prepared.dataset[split]
    rows = list(zip(table["case_id"], table["slice_index"], strict=True))
    if not by_slice and len({case for case, _ in rows}) < len(rows):
        raise BadInputError(f"{path}: has no column slice_index, and cases here have several images; add it")
    keys = [(spelling_key(case), (number or 0) if by_slice else 0) for case, number in rows]
    if missing := [rows[i] for i, key in enumerate(keys) if key not in found]:
        raise BadInputError(
            f"{path}: no row of case {missing[0][0]} (slice {missing[0][1]}); expected one for every image"
        )
    return np.array([found[key] for key in keys])


def as_score(path: Path, case_id: str, name: str, text: str) -> float:
    """Raises `BadInputError` for what is no number in 0..1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise BadInputError(f"{path}: {name} of case {case_id} is {text!r}; expected a score from 0 to 1")
    return value
