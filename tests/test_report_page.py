"""report.png and samples.png: the panels of each task, which cases are shown, and nothing written over anything else."""

import importlib.util
from itertools import combinations

import matplotlib.text
import numpy as np
import pytest
import sklearn.metrics
from PIL import Image
from prepared_data import prepared_dataset
from test_trainer import make_trainer

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
)
from modeling_resformer.metrics.scores import Bootstrap
from modeling_resformer.training.compute_metrics import RowStatistics
from modeling_resformer.training.report_cases import drawn_cases, evenly_spaced, ranking
from modeling_resformer.training.report_page import curve, draw_page, exclude_each_other, write_pages
from modeling_resformer.training.results import Scoring, evaluate_split
from modeling_resformer.training.rows import EvaluationRows


LOG = [
    {"loss": 1.0, "segmentation_loss": 0.8, "classification_loss": 0.7, "epoch": 1.0, "step": 2},
    {"eval_loss": 0.9, "eval_segmentation_loss": 0.7, "eval_classification_loss": 0.6, "epoch": 1.0, "step": 2}
    | {"eval_dice": 0.5, "eval_jaccard": 0.4, "eval_dice_present": 0.45, "eval_auc": 0.6, "eval_accuracy": 0.5},
    {"eval_loss": 0.8, "eval_segmentation_loss": 0.6, "eval_classification_loss": 0.5, "epoch": 2.0, "step": 4}
    | {"eval_dice": 0.6, "eval_jaccard": 0.5, "eval_dice_present": 0.55, "eval_auc": 0.7, "eval_accuracy": 0.6},
    {"train_runtime": 3.0, "epoch": 2.0, "step": 4},
]
# What the log of a model without a task does not have.
UNKNOWN = {
    "segmentation": ("segmentation_loss", "dice", "jaccard"),
    "classification": ("classification_loss", "auc", "accuracy"),
}
TITLES = {
    "segmentation": {"Segmentation loss", "Validation: masks"},
    "classification": {
        "Classification loss",
        "Validation: image-level classes",
        "ROC: AUC (rows with the class)",
        "Reliability: calibration error",
        "Decisions at each class's threshold",
    },
}


@pytest.fixture(scope="module")
def dataset():
    return prepared_dataset(train=4, validation=4, test=14)


def evaluated(dataset, folder, model_class=ResFormerForMultiTask):
    """(trainer, rows, results) after an evaluation of the test part with random weights."""
    trainer = make_trainer(dataset, folder, model_class=model_class)
    rows = EvaluationRows(dataset["test"])
    return trainer, rows, evaluate_split(trainer, dataset, "test", folder, Scoring(Bootstrap(20)), rows)


@pytest.mark.parametrize(
    ("model_class", "tasks"),
    [
        (ResFormerForMultiTask, ["segmentation", "classification"]),
        (ResFormerForSemanticSegmentation, ["segmentation"]),
        (ResFormerForImageClassification, ["classification"]),
    ],
)
def test_each_task_has_its_panels_and_no_text_lies_on_another(dataset, tmp_path, model_class, tasks):
    log, (trainer, rows, results) = LOG, evaluated(dataset, tmp_path, model_class)
    positions, _, _ = ranking(trainer.compute_metrics.rows)
    cases = {
        "Worst cases": drawn_cases(trainer, rows, positions[:6]),
        "Best": drawn_cases(trainer, rows, positions[6:]),
    }
    for task in set(UNKNOWN) - set(tasks):
        log = [
            {k: v for k, v in line.items() if not k.removeprefix("eval_").startswith(UNKNOWN[task])} for line in log
        ]
    figure = draw_page(trainer.compute_metrics, results, log, 2.0, cases)
    figure.savefig(tmp_path / "page.png")
    panels = {axes.get_title() for part in figure.subfigs[:2] for axes in part.axes}
    assert {title for title in panels if "case_" not in title} == {t for task in tasks for t in TITLES[task]}
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text().strip()]
    # Numbers of the axes are left out: matplotlib also keeps those outside the limits, which it does not draw.
    words = [text for text in texts if not text.get_text().replace(".", "").replace("\u2212", "").isdigit()]
    boxes = [(text.get_text(), text.get_window_extent().shrunk(0.98, 0.9)) for text in words]
    width, height = figure.canvas.get_width_height()
    for name, box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, name
    assert [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)] == []


def test_both_pages_are_written_whole(dataset, tmp_path):
    trainer, rows, results = evaluated(dataset, tmp_path)
    write_pages(trainer, rows, results, tmp_path)
    for name in ("report.png", "samples.png"):
        with Image.open(tmp_path / name) as page:
            page.load()
            assert page.width >= 1100
    assert not list(tmp_path.glob("*.partial"))


def test_without_matplotlib_one_line_says_so(dataset, tmp_path, monkeypatch, caplog):
    trainer, rows, results = evaluated(dataset, tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    caplog.clear()
    write_pages(trainer, rows, results, tmp_path)
    assert [record.message for record in caplog.records] == [
        "No report.png: matplotlib is not installed; pip install matplotlib."
    ]
    assert not list(tmp_path.glob("*.png"))


def test_a_part_of_one_picture_is_evaluated_and_drawn(tmp_path):
    dataset = prepared_dataset(train=4, validation=1, test=1)
    trainer, rows, results = evaluated(dataset, tmp_path)
    write_pages(trainer, rows, results, tmp_path)
    assert (results["images"], results["model"]["dice"]["low"]) == (1, None)
    assert results["absent_classes"] == ["brown"]
    assert (tmp_path / "report.png").is_file()


def test_what_is_drawn_is_what_was_scored(dataset, tmp_path):
    """The contours' masks give the Jaccard of the caption again; the pictures are small, so nothing was resized."""
    trainer, rows, _ = evaluated(dataset, tmp_path)
    positions, scores, name = ranking(trainer.compute_metrics.rows)
    assert name == "Jaccard"
    assert list(scores) == sorted(scores)
    for case, score in zip(drawn_cases(trainer, rows, positions), scores, strict=True):
        expected = sklearn.metrics.jaccard_score(case.true.ravel(), case.predicted.ravel())
        assert score == pytest.approx(expected)
        assert f": {expected:.2f}\n" in case.caption


def test_rows_are_ranked_by_the_right_answer_where_there_are_no_masks():
    logits = np.log([[9.0, 1 / 9], [1 / 9, 1.0], [1.0, 9.0]])
    rows = RowStatistics(
        np.arange(3),
        np.arange(3),
        classification_logits=logits,
        class_labels=np.array([[1, 0], [1, -100], [-100, -100]]),
    )
    positions, scores, _ = ranking(rows)
    assert positions.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([0.1, 0.9])


def test_samples_are_spread_over_the_part():
    assert evenly_spaced(300, 4) == [0, 100, 199, 299]
    assert evenly_spaced(3, 12) == [0, 1, 2]
    assert evenly_spaced(1, 12) == [0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1, 0, 0], [0, 0, 1]], True),
        ([[1, 0, 0], [-100, -100, -100]], True),
        ([[1, 1, 0], [0, 0, 1]], False),
        ([[0, 0, 0], [0, 0, 1]], False),
        ([[1, 0, -100], [0, 0, 1]], False),
        ([[1], [1]], False),
        ([[-100, -100]], False),
    ],
)
def test_labels_exclude_each_other_where_every_row_has_exactly_one(labels, expected):
    assert exclude_each_other(np.array(labels)) is expected


def test_curves_come_from_the_log():
    assert curve(LOG, "eval_segmentation_loss") == [(1.0, 0.7), (2.0, 0.6)]
    assert curve(LOG, "segmentation_loss") == [(1.0, 0.8)]
    assert curve([], "eval_loss") == []
