"""report.png and samples.png: the panels of each task, which cases are shown, and nothing written over anything else."""

import importlib.util
from collections import Counter
from itertools import combinations

import datasets
import matplotlib.text
import numpy as np
import pytest
import sklearn.metrics
from datasets import Dataset
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from prepared_data import prepared_dataset
from small_model import tiny_config
from small_trainer import make_trainer

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
)
from modeling_resformer.evaluation import report_page
from modeling_resformer.evaluation.answers import Classes, ScoredRows
from modeling_resformer.evaluation.drawn_cases import (
    PREDICTION,
    TRUTH,
    DrawnCase,
    caption_of,
    drawn_cases,
    image_names,
)
from modeling_resformer.evaluation.evaluation import Scoring
from modeling_resformer.evaluation.panels import TrainingLog, curve, exclude_each_other
from modeling_resformer.evaluation.per_case import write_per_case
from modeling_resformer.evaluation.report_page import cases_title, draw_page, draw_samples, write_pages
from modeling_resformer.evaluation.results import write_results
from modeling_resformer.evaluation.row_images import DrawnImage
from modeling_resformer.evaluation.row_statistics import RowStatistics
from modeling_resformer.evaluation.shown_rows import evenly_spaced, ranking
from modeling_resformer.metrics.scores import Bootstrap
from modeling_resformer.training.split_evaluation import evaluate_split


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


@pytest.fixture(autouse=True)
def rendered(render, monkeypatch):
    monkeypatch.setattr(report_page, "save", render)


@pytest.fixture(scope="module")
def dataset():
    return prepared_dataset(train=4, validation=4, test=14)


def evaluated(dataset, folder, model_class=ResFormerForMultiTask):
    """An evaluation of the test split with random weights."""
    trainer = make_trainer(dataset, folder, model_class=model_class)
    return evaluate_split(trainer, dataset, "test", Scoring(Bootstrap(20)))


@pytest.mark.parametrize(
    ("model_class", "tasks"),
    [
        (ResFormerForMultiTask, ["segmentation", "classification"]),
        (ResFormerForSemanticSegmentation, ["segmentation"]),
        (ResFormerForImageClassification, ["classification"]),
    ],
)
def test_each_task_has_its_panels_and_no_text_lies_on_another(dataset, tmp_path, model_class, tasks):
    log, evaluation = LOG, evaluated(dataset, tmp_path, model_class)
    for task in set(UNKNOWN) - set(tasks):
        log = [
            {k: v for k, v in line.items() if not k.removeprefix("eval_").startswith(UNKNOWN[task])} for line in log
        ]
    figure = draw_page(evaluation, TrainingLog(log, 2.0))
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


def test_images_are_read_once_beside_the_model_and_by_no_writer(dataset, tmp_path, monkeypatch):
    """A page shows some images twice, baselines need all of them: still each is decoded for the model and once more."""
    decoded, decode = Counter(), datasets.Image.decode_example
    monkeypatch.setattr(
        datasets.Image,
        "decode_example",
        lambda self, value, **rest: decoded.update([value["bytes"]]) or decode(self, value, **rest),
    )
    evaluation = evaluated(dataset, tmp_path)
    images = [row["bytes"] for row in dataset["test"].cast_column("image", datasets.Image(decode=False))["image"]]
    assert [decoded[image] for image in images] == [2] * 14
    decoded.clear()
    monkeypatch.setattr(Image, "open", None)
    write_per_case(evaluation, tmp_path)
    write_results(evaluation, tmp_path)
    write_pages(evaluation, tmp_path)
    assert not decoded
    assert {path.name for path in tmp_path.iterdir()} >= {"per_case.csv", "results.json", "report.png", "samples.png"}


def test_both_pages_are_written_whole(dataset, tmp_path):
    write_pages(evaluated(dataset, tmp_path), tmp_path)
    for name in ("report.png", "samples.png"):
        with Image.open(tmp_path / name) as page:
            page.load()
            assert page.width >= 1100
    assert not list(tmp_path.glob("*.partial"))


def test_without_matplotlib_one_line_says_so(dataset, tmp_path, monkeypatch, caplog):
    evaluation = evaluated(dataset, tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    caplog.clear()
    write_pages(evaluation, tmp_path)
    assert [record.message for record in caplog.records] == [
        "No report.png: matplotlib is not installed; pip install matplotlib."
    ]
    assert not list(tmp_path.glob("*.png"))


def test_a_part_of_one_image_is_evaluated_and_drawn(tmp_path):
    dataset = prepared_dataset(train=4, validation=1, test=1)
    evaluation = evaluated(dataset, tmp_path)
    write_pages(evaluation, tmp_path)
    assert evaluation.everything.images == 1
    assert np.isnan(evaluation.everything.model["dice"].low)
    assert evaluation.absent_classes == ["brown"]
    assert (tmp_path / "report.png").is_file()


def test_screen_and_page_say_how_many_images_are_not_annotated(tmp_path, caplog):
    dataset = prepared_dataset(train=4, validation=4, test=4)
    nothing = {"mask": None, "mask_classes": None, "class_labels": None, "class_labels_unknown": []}
    rows = [row | (nothing if number in (1, 2) else {}) for number, row in enumerate(dataset["test"])]
    dataset["test"] = Dataset.from_list(rows, features=dataset["test"].features)
    with caplog.at_level("INFO"):
        evaluation = evaluated(dataset, tmp_path)
        write_results(evaluation, tmp_path)
    assert any(line.startswith("2 test images (2 more are not annotated)\n") for line in caplog.messages)
    page = draw_page(evaluation, TrainingLog())
    assert page.get_suptitle().startswith("2 test images of 2 cases (2 more are not annotated)\n")


def test_what_is_drawn_is_what_was_scored(dataset, tmp_path):
    """The contours' masks give the Jaccard of the caption again; the images are small, so nothing was resized."""
    evaluation = evaluated(dataset, tmp_path)
    ranked = evaluation.images.shown.ranked
    positions, scores = ranked.positions, ranked.scores
    assert ranked.name == "Jaccard"
    assert list(scores) == sorted(scores)
    cases = drawn_cases(evaluation, positions)  # of so few rows, all are among the worst or the best
    for case, score in zip(cases, scores, strict=True):
        expected = sklearn.metrics.jaccard_score(case.drawn.true.ravel(), case.drawn.predicted.ravel())
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
    ranked = ranking(ScoredRows.of(rows, tiny_config()))
    assert ranked.positions.tolist() == [1, 0]
    assert ranked.scores.tolist() == pytest.approx([0.1, 0.9])


def ranked_masks(wrong, kinds, labels=None):
    """A ranking of rows of 100 pixels that find nothing: (missed pixels, foreground class) a row."""
    counts = np.zeros((len(wrong), 4, 4), dtype=np.int64)
    for row, (pixels, kind) in enumerate(zip(wrong, kinds, strict=True)):
        counts[row, 2, kind] = pixels
        counts[row, 3] = 100 - counts[row, 2]
    logits = None if labels is None else np.zeros(np.shape(labels))
    rows = RowStatistics(
        *[np.arange(len(wrong))] * 2, mask_counts=counts, classification_logits=logits, class_labels=labels
    )
    return ranking(ScoredRows.of(rows, tiny_config()))


def test_equally_bad_rows_are_ranked_by_wrong_pixels_and_spread_over_classes():
    """All have a Jaccard of 0. By name the first three are of class 1; the largest miss of every class comes first."""
    ranked = ranked_masks([5, 9, 7, 3, 8, 2], [1, 1, 1, 1, 2, 3])
    assert ranked.positions.tolist() == [1, 4, 2, 0, 3, 5]
    assert ranked.worst(3) == [1, 4, 5]
    assert ranked.worst(5) == [1, 4, 5, 2, 0]
    assert ranked.worst(9) == [1, 4, 5, 2, 0, 3]
    assert ranked.best(2, but=[1, 4, 5]) == [3, 0]
    assert ranked.best(3, but=ranked.worst(6)) == []
    assert cases_title("worst", 3, ranked) == (
        "Worst cases by Jaccard: 3 of 6; 6 share the worst score, 0.00, shown across classes"
    )


def test_with_one_mask_class_equally_bad_rows_are_spread_over_the_labels():
    labels = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 0]])
    assert ranked_masks([9, 8, 7, 2, 1], [1] * 5, labels).worst(3) == [0, 3, 4]


def test_rows_of_different_scores_are_not_spread():
    counts = np.zeros((4, 4, 3), dtype=np.int64)
    counts[:, 0, 1], counts[:, 2, 1] = [1, 2, 3, 9], [9, 8, 7, 1]
    rows = RowStatistics(np.arange(4), np.arange(4), mask_counts=counts)
    ranked = ranking(ScoredRows.of(rows, tiny_config()))
    assert ranked.worst(2) == [0, 1]
    assert ranked.best(2, but=[0, 1]) == [3, 2]
    assert cases_title("best", 2, ranked) == "Best cases by Jaccard: 2 of 4"


def test_captions_name_every_class_at_or_above_its_threshold():
    def lines(probabilities, thresholds):
        index, labels = np.zeros(1, dtype=int), np.array([[1, -100]])
        rows = ScoredRows(
            index, index, labels[:, 0] >= 0, probabilities=np.array([probabilities]), class_labels=labels
        )
        classes = Classes(("background", "lesion"), ("red", "brown"), thresholds)
        return caption_of("a", rows, 0, classes).split("\n")

    assert lines([0.3, 0.2], [0.25, 0.1]) == ["a", "flagged: red 0.30", "flagged: brown 0.20", "truth: red"]
    assert not any("brown 0." in line for line in lines([0.3, 0.2], [0.25, 0.9]))
    assert lines([0.3, 0.2], [0.9, 0.9])[1:3] == ["none flagged", "highest: red 0.30"]
    assert lines([0.4953, 0.2], [0.5, 0.5])[1:3] == ["none flagged", "highest: red 0.495"]
    assert lines([0.3, 0.7], None) == ["a", "highest: brown 0.70", "truth: red"]


def test_a_case_of_several_rows_is_named_with_its_slice(dataset, tmp_path):
    evaluation = evaluated(prepared_dataset(train=4, validation=4, test=3), tmp_path)
    first = [case.caption.split(":")[0].split("\n")[0] for case in drawn_cases(evaluation, [0, 1, 2])]
    (a, b, c) = dataset["test"]["case_id"][:3]
    assert a == b != c
    assert first == [f"{a} slice 0", f"{a} slice 1", c]
    long = "a" * 10 + "b" * 21
    assert image_names([long, long, "c", "d", "d"], [7, 8, 0, None, None]) == [
        f"...{'b' * 21} slice 7",
        f"...{'b' * 21} slice 8",
        "c",
        "d",
        "d",
    ]


def test_truth_and_prediction_differ_in_colour_and_several_classes_in_line_and_name():
    true, predicted = np.zeros((2, 40, 40), dtype=int)
    true[5:15, 5:15], true[25:35, 5:15] = 1, 2
    predicted[5:15, 15:30], predicted[25:35, 15:30] = 1, 3
    case = DrawnCase(DrawnImage(Image.new("RGB", (40, 40)), true, predicted), "case")
    figure = draw_samples([case], ["background", "IRF", "SRF", "PED"], "test", 49)
    assert figure.get_suptitle() == "1 of 49 test images, evenly spaced, not chosen by result"
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "case"]
    drawn = [(to_hex(part.get_edgecolor()[0]), part.get_linestyle()[0][1] is None) for part in axes.collections]
    assert drawn == [(TRUTH, True), (PREDICTION, True), (TRUTH, False), (PREDICTION, False)]
    names = {(text.get_text(), text.get_color()) for text in axes.texts}
    assert names == {("IRF", TRUTH), ("IRF", PREDICTION), ("SRF", TRUTH), ("PED", PREDICTION)}
    entries = {text.get_text() for text in figure.legends[0].get_texts()}
    assert entries == {"truth", "prediction", "IRF", "SRF", "PED"}
    styles = [line.get_linestyle() for line in figure.legends[0].get_lines()][2:]
    assert len(set(styles)) == 3


def test_the_two_colours_differ_for_every_kind_of_colour_blindness():
    """Simulated after Machado, Oliveira and Fernandes (2009), severity 1, in linear RGB; CIE Lab distance over 40."""
    simulated = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    colours = np.array([to_rgb(TRUTH), to_rgb(PREDICTION)])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    for matrix in simulated.values():
        f = np.cbrt(np.clip(linear @ np.array(matrix).T, 0, 1) @ to_xyz.T / [0.95047, 1, 1.08883])
        lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])])
        assert np.linalg.norm(lab[:, 0] - lab[:, 1]) > 40


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
