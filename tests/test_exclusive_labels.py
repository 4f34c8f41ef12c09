"""Classes that exclude each other: the loss by torch and by hand, one owner of scores and decisions, and a run end to end."""

import json
import logging
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from PIL import Image
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import ARCHITECTURE, tiny_config
from transformers import AutoModelForImageClassification, pipeline

from modeling_resformer import (
    ResFormerConfig,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerImageProcessorPil,
    ResFormerPipeline,
)
from modeling_resformer.commands import evaluate, predict, train
from modeling_resformer.configuration_resformer import decisions
from modeling_resformer.data.exclusive_labels import contradicting_rows, labels_exclude
from modeling_resformer.data.prepared import PreparedDataset
from modeling_resformer.errors import BadInputError
from modeling_resformer.evaluation.answers import completed_labels
from modeling_resformer.evaluation.evaluation_metrics import split_losses
from modeling_resformer.evaluation.row_statistics import RowStatistics
from modeling_resformer.handler import EndpointHandler
from modeling_resformer.heads import TASKS
from modeling_resformer.metrics.scores import Bootstrap, classification_scores
from modeling_resformer.modeling_resformer import classification_loss
from modeling_resformer.pipeline_resformer import VIEWS, averaged_over_views
from modeling_resformer.training.arguments import ModelArguments
from modeling_resformer.training.building import build_model
from modeling_resformer.training.run_checks import check_exclusive_labels


NAMES = ["a", "b", "c"]
UNKNOWN = -100.0
# Probabilities 1/6, 2/6, 3/6.
LOGITS = torch.tensor([1.0, 2.0, 3.0]).log()


def exclusive(**settings):
    return tiny_config(classification_labels=NAMES, classification_type="exclusive", **settings)


def loss_of(*rows, logits=LOGITS, **settings):
    labels = torch.tensor(rows)
    return classification_loss(logits.expand(len(rows), 3), labels, exclusive(**settings)).item()


# ---------------------------------------------------------------------------------------------------------------------
# The loss
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "likelihood"),
    [
        ([0.0, 0.0, 1.0], 3 / 6),
        ([UNKNOWN, 1.0, UNKNOWN], 2 / 6),  # one present says all
        ([0.0, UNKNOWN, UNKNOWN], 5 / 6),  # one of the two that are left open
        ([0.0, 0.0, UNKNOWN], 3 / 6),  # the last that is left open
        ([0.0, float("nan"), float("nan")], 5 / 6),
    ],
)
def test_a_row_costs_the_logarithm_of_the_likelihood_of_what_is_known(row, likelihood):
    assert loss_of(row) == pytest.approx(-math.log(likelihood), rel=1e-6)


def test_the_mean_is_over_the_rows_that_say_something():
    silent = [UNKNOWN] * 3
    expected = (-math.log(3 / 6) - math.log(5 / 6)) / 2
    assert loss_of([0.0, 0.0, 1.0], silent, [0.0, UNKNOWN, UNKNOWN], silent) == pytest.approx(expected, rel=1e-6)
    assert loss_of(silent, silent) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0]])
def test_whole_labels_cost_what_torch_says(smoothing, weights):
    """By class probabilities torch divides by the rows; by indices by their weights, the same where they average 1."""
    torch.manual_seed(0)
    logits, indices = torch.randn(9, 3), torch.randint(0, 3, (9,))
    config = exclusive(label_smoothing=smoothing, class_weights=weights)
    given = None if weights is None else torch.tensor(weights)
    one_hot = F.one_hot(indices, 3).float()
    expected = F.cross_entropy(logits, one_hot, given, label_smoothing=smoothing)
    torch.testing.assert_close(classification_loss(logits, one_hot, config), expected)
    torch.testing.assert_close(classification_loss(logits, indices, config), expected)
    by_indices = F.cross_entropy(logits, indices, given, label_smoothing=smoothing, reduction="sum") / 9
    torch.testing.assert_close(classification_loss(logits, indices, config), by_indices)


def test_mixed_labels_cost_what_torch_says():
    torch.manual_seed(0)
    logits, shares = torch.randn(7, 3), torch.rand(7, 3).softmax(1)
    torch.testing.assert_close(classification_loss(logits, shares, exclusive()), F.cross_entropy(logits, shares))


def test_several_open_classes_weigh_their_mean():
    expected = -3.0 * math.log(5 / 6)
    assert loss_of([0.0, UNKNOWN, UNKNOWN], class_weights=[9.0, 2.0, 4.0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_of_several_labels_moves_them_towards_one_half(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    expected = F.binary_cross_entropy_with_logits(logits, labels.clamp(smoothing / 2, 1 - smoothing / 2))
    torch.testing.assert_close(classification_loss(logits, labels, tiny_config(label_smoothing=smoothing)), expected)


@pytest.mark.parametrize("row", [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, UNKNOWN, 1.0]])
def test_labels_that_no_image_can_have_are_refused_on_a_cpu(row):
    with pytest.raises(ValueError, match="expected exactly one class an image"):
        loss_of([0.0, 0.0, 1.0], row)


def test_where_nobody_looks_such_labels_are_left_out(monkeypatch):
    monkeypatch.setattr("modeling_resformer.modeling_resformer.check_exclusion", lambda labels: None)
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([[0.0, 0, 1], [1, 1, 0], [0, 0, 0], [UNKNOWN] * 3])
    loss = classification_loss(logits, labels, exclusive())
    torch.testing.assert_close(loss, F.cross_entropy(logits[:1], torch.tensor([2])))
    loss.backward()
    assert logits.grad[0].any() and not logits.grad[1:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("row", [[1.0, 0.0, 0.0], [0.0, UNKNOWN, UNKNOWN], [1.0, UNKNOWN, UNKNOWN], [UNKNOWN] * 3])
def test_certain_logits_of_few_bits_give_finite_losses_and_gradients(dtype, row):
    logits = torch.tensor([[-60000.0, 60000.0, -60000.0]], dtype=dtype, requires_grad=True)
    loss = classification_loss(logits, torch.tensor([row]), exclusive(label_smoothing=0.1))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and logits.grad.isfinite().all()


def test_the_gradient_of_a_set_of_classes_is_right():
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    probabilities = logits.softmax(1)
    expected = -(probabilities[0, 1:].sum().log() + probabilities[1, 0].log()) / 2
    labels = torch.tensor([[0.0, UNKNOWN, UNKNOWN], [1.0, UNKNOWN, 0.0]])
    found = classification_loss(logits, labels, exclusive())
    for one, other in zip(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model_class", [ResFormerForMultiTask, ResFormerForImageClassification])
@pytest.mark.parametrize("row", [[0.0, 1.0, 0.0], [0.0, UNKNOWN, UNKNOWN], [UNKNOWN] * 3])
def test_every_parameter_gets_a_gradient_from_every_batch(model_class, row):
    """Zero and not None, which DDP would take for an unused parameter; of a silent row exactly zero."""
    torch.manual_seed(0)
    model, labels = model_class(exclusive()), torch.tensor([row, row])
    names = {"class_labels": labels, "mask_labels": torch.full((2, 32, 32), 255)}
    given = names if model_class is ResFormerForMultiTask else {"labels": labels}
    model(torch.randn(2, 3, 32, 32), **given).loss.backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients) == (row != [UNKNOWN] * 3)


def test_the_loss_of_a_split_is_that_of_one_batch_of_it():
    torch.manual_seed(0)
    logits = torch.randn(5, 3)
    labels = torch.tensor([[0.0, 1, 0], [UNKNOWN] * 3, [0, UNKNOWN, UNKNOWN], [1, 0, 0], [UNKNOWN, 1, UNKNOWN]])
    rows = RowStatistics(*[np.arange(5)] * 2, classification_logits=logits.numpy(), class_labels=labels.numpy())
    config = exclusive(class_weights=[1.0, 2.0, 3.0])
    assert split_losses(rows, config)["loss"] == pytest.approx(classification_loss(logits, labels, config).item())


# ---------------------------------------------------------------------------------------------------------------------
# Config, scores and decisions
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classification_type": "softmax"}, "'softmax' is unknown; use one of multi_label, exclusive"),
        (
            {"classification_type": "exclusive", "classification_thresholds": [0.5] * 3},
            "have no meaning with classification_type='exclusive', where the highest score decides",
        ),
        (
            {"classification_type": "exclusive", "classification_labels": ["a"]},
            "needs two image-level classes or more",
        ),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 must lie in \[0, 1\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        tiny_config(**{"classification_labels": NAMES, **settings})


def test_a_config_that_says_nothing_of_it_is_one_of_several_labels(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["classification_type"], stored["label_smoothing"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert ResFormerConfig.from_pretrained(tmp_path).classification_type == "multi_label"


def test_scores_and_decisions_against_torch_and_by_hand():
    logits, both = torch.randn(6, 3), (exclusive(), tiny_config(classification_labels=NAMES))
    torch.testing.assert_close(both[0].class_scores(logits.half()), logits.half().float().softmax(1))
    torch.testing.assert_close(both[1].class_scores(logits), logits.sigmoid())
    assert both[0].predicted_classes([0.2, 0.4, 0.4]) == ["b"]
    assert both[1].predicted_classes([0.2, 0.5, 0.7]) == ["b", "c"]
    assert both[1].predicted_classes([0.2, 0.5, 0.7], 0.8) == []
    assert both[0].decision_thresholds() is None
    with pytest.raises(ValueError, match=r"threshold=0.4 has no meaning .* the highest score decides"):
        both[0].decision_thresholds(0.4)
    assert (decisions(np.eye(3) + 0.1, None) == np.eye(3, dtype=bool)).all()


def test_averages_over_flips_are_those_of_softmax_probabilities():
    """(.7, .2, .1) and (.1, .4, .5): the means are (.4, .3, .3)."""
    seen = iter([torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.1, 0.4, 0.5]]).log() + 3])
    averaged = averaged_over_views(
        lambda pixels: {"classification_logits": next(seen)}, torch.zeros(1, 1, 1, 1), VIEWS["horizontal"], True
    )
    torch.testing.assert_close(averaged["classification_logits"].softmax(1), torch.tensor([[0.4, 0.3, 0.3]]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A multi-task model of exclusive classes, saved with its processor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exclusive")
    model = ResFormerForMultiTask(exclusive())
    torch.nn.init.normal_(model.classification_head.classifier.weight)
    model.save_pretrained(folder)
    ResFormerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_pipelines_of_transformers_and_our_own_give_the_softmax(checkpoint, image):
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    assert model.config.problem_type == "single_label_classification"
    processor = ResFormerImageProcessorPil.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = model(**processor(image, return_tensors="pt")).logits[0]
    expected = dict(zip(NAMES, logits.softmax(0).tolist(), strict=True))
    stock = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    assert {one["label"]: one["score"] for one in stock(image)} == pytest.approx(expected, abs=1e-6)
    whole = ResFormerForMultiTask.from_pretrained(checkpoint)
    assert (whole.config.classification_type, whole.config.problem_type) == ("exclusive", None)
    pipe = ResFormerPipeline(model=whole, image_processor=processor, device="cpu")
    for tta in (False, "horizontal"):
        answer = pipe(image, tta=tta)
        assert sum(answer["class_scores"].values()) == pytest.approx(1)
        assert answer["predicted_labels"] == [max(answer["class_scores"], key=answer["class_scores"].get)]
    assert pipe(image)["class_scores"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"threshold=0\.3 has no meaning"):
        pipe(image, threshold=0.3)


def test_the_handler_answers_by_softmax_and_names_one_class(checkpoint, image):
    endpoint = EndpointHandler(str(checkpoint), device="cpu")
    answer = endpoint({"inputs": image, "parameters": {"task": "both"}})
    scores = {one["label"]: one["score"] for one in answer["classification"]}
    whole = ResFormerForMultiTask.from_pretrained(checkpoint)
    pipe = ResFormerPipeline(model=whole, image_processor=endpoint.image_processor, device="cpu")
    assert scores == pytest.approx(pipe(image)["class_scores"], abs=1e-5) and sum(scores.values()) == pytest.approx(1)
    assert answer["predicted_labels"] == [answer["classification"][0]["label"]]


def test_several_labels_keep_their_sigmoids_in_the_stock_pipeline(image):
    torch.manual_seed(0)
    model = ResFormerForImageClassification(tiny_config(classification_labels=NAMES)).eval()
    assert model.config.problem_type == "multi_label_classification"
    processor = ResFormerImageProcessorPil(size={"height": 32, "width": 32})
    with torch.no_grad():
        logits = model(**processor(image, return_tensors="pt")).logits[0]
    stock = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    expected = dict(zip(NAMES, logits.sigmoid().tolist(), strict=True))
    assert {one["label"]: one["score"] for one in stock(image)} == pytest.approx(expected, abs=1e-6)


def test_a_table_of_predictions_has_one_label_an_image_and_no_thresholds(checkpoint, image, tmp_path, caplog):
    image.save(tmp_path / "one.png")
    flags = ["--model", str(checkpoint), str(tmp_path / "one.png"), "--output", str(tmp_path / "out")]
    assert predict.main([*flags, "--threshold", "0.4"]) == 1
    assert "threshold=0.4 has no meaning" in caplog.text
    assert predict.main(flags) == 0
    header, row = ((tmp_path / "out" / "predictions.csv").read_text().splitlines())[:2]
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert sum(float(found[f"score_{name}"]) for name in NAMES) == pytest.approx(1, abs=1e-5)
    assert sorted(found[f"label_{name}"] for name in NAMES) == ["False", "False", "True"]
    assert {found[f"threshold_{name}"] for name in NAMES} == {""}


# ---------------------------------------------------------------------------------------------------------------------
# Scores of a split
# ---------------------------------------------------------------------------------------------------------------------


def test_balanced_accuracy_and_the_share_named_rightly_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    true, probabilities = rng.choice(3, 60, p=[0.6, 0.3, 0.1]), rng.dirichlet([1, 1, 1], 60)
    scores = classification_scores(probabilities, np.eye(3)[true], np.arange(60), NAMES, None, bootstrap=Bootstrap(50))
    predicted = probabilities.argmax(1)
    balanced = scores["balanced_accuracy"]
    assert balanced.value == pytest.approx(sklearn.metrics.balanced_accuracy_score(true, predicted))
    assert balanced.low < balanced.value < balanced.high and balanced.n == 60
    assert scores["sensitivity"].value == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    recalls = sklearn.metrics.recall_score(true, predicted, average=None)
    assert [scores[f"sensitivity_{name}"].value for name in NAMES] == pytest.approx(recalls.tolist())
    areas = sklearn.metrics.roc_auc_score(true, probabilities, average=None, multi_class="ovr")
    assert [scores[f"auc_{name}"].value for name in NAMES] == pytest.approx(areas.tolist())
    assert "balanced_accuracy" not in classification_scores(probabilities, np.eye(3)[true], np.arange(60), NAMES)


def test_a_class_that_never_occurs_is_left_out_of_the_balanced_accuracy():
    true, probabilities = np.array([0, 0, 1, 1]), np.eye(3)[[0, 1, 1, 2]]
    scores = classification_scores(probabilities, np.eye(3)[true], np.arange(4), NAMES, None)
    assert scores["balanced_accuracy"].value == 0.5


def test_what_follows_from_known_labels_is_scored():
    labels = np.array([[1, -100, 0], [0, -100, 0], [0, -100, -100], [-100, -100, -100], [0, 1, 0]])
    assert completed_labels(labels).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, -100, -100],
        [-100, -100, -100],
        [0, 1, 0],
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Data and runs
# ---------------------------------------------------------------------------------------------------------------------


def with_labels(labels, unknown=None, train=4):
    """A dataset whose training rows have those labels, by index."""
    dataset = prepared_dataset(train=train, validation=2, test=2)
    unknown = unknown or [[] for _ in labels]
    columns = {"class_labels": labels, "class_labels_unknown": unknown}
    rows = dataset["train"]
    dataset["train"] = rows.map(
        lambda row, index: {name: values[index] for name, values in columns.items()},
        with_indices=True,
        features=rows.features,
    )
    return dataset


@pytest.mark.parametrize(
    ("labels", "unknown", "expected", "contradicting"),
    [
        ([[0], [1], [0], None], None, True, []),
        ([[0], [1], [0], [0]], [[], [], [1], []], True, []),  # red whatever brown is
        ([[0], [1], [], None], [[], [], [0, 1], []], True, []),  # nothing known of the third
        ([[0], [1], [0, 1], [0]], None, False, [2]),
        ([[0], [], [0], []], None, False, [1, 3]),
        ([[0], [1], [], [0]], [[], [], [1], []], False, []),  # brown or nothing: not said
        ([None] * 4, None, True, []),  # the other splits are labelled
    ],
)
def test_labels_exclude_each_other_where_every_labelled_row_has_exactly_one(labels, unknown, expected, contradicting):
    dataset = with_labels(labels, unknown)
    assert labels_exclude(dataset) is expected
    assert contradicting_rows(dataset["train"]) == contradicting


def test_one_class_and_no_labels_exclude_nothing():
    dataset = prepared_dataset(train=4, validation=2, test=2)
    unlabelled = {"class_labels": None, "class_labels_unknown": []}
    features = dataset["train"].features
    assert not labels_exclude(
        {name: rows.map(lambda row: unlabelled, features=features) for name, rows in dataset.items()}
    )


def test_a_row_of_two_classes_is_refused_before_training_and_named():
    dataset = with_labels([[0], [1], [0, 1], [0]])
    prepared = PreparedDataset(dataset, MASK_CLASSES, CLASS_LABELS, {"labels_exclusive": True})
    config = tiny_config(classification_labels=CLASS_LABELS, classification_type="exclusive")
    with pytest.raises(BadInputError, match=r"case case_1 \(slice 0\) of the train split has the classes red, brown"):
        check_exclusive_labels(prepared, config, TASKS["multi_task"], "folder")
    check_exclusive_labels(prepared, config, TASKS["segmentation"], "folder")
    check_exclusive_labels(prepared, tiny_config(classification_labels=CLASS_LABELS), TASKS["multi_task"], "folder")


@pytest.mark.parametrize(
    ("metadata", "config", "expected", "said"),
    [
        ({}, {}, "multi_label", "prepared by an earlier version"),
        ({"labels_exclusive": False}, {}, "multi_label", "may have several of them or none"),
        ({"labels_exclusive": True}, {}, "exclusive", "every labelled row of the dataset has exactly one"),
        ({"labels_exclusive": True}, {"classification_type": "multi_label"}, "multi_label", "as given"),
        ({}, {"classification_type": "exclusive"}, "exclusive", "as given"),
    ],
)
def test_a_run_takes_the_datasets_word_unless_told_otherwise(caplog, metadata, config, expected, said):
    prepared = PreparedDataset(prepared_dataset(train=2, validation=2, test=2), MASK_CLASSES, CLASS_LABELS, metadata)
    with caplog.at_level(logging.INFO):
        model = build_model(ModelArguments(config={**ARCHITECTURE, **config}), prepared)
    assert model.config.classification_type == expected
    (line,) = [record.message for record in caplog.records if record.message.startswith("Image-level classes: ")]
    assert f"Image-level classes: {expected}" in line and said in line


def run_flags(folder, output):
    flags = [
        "--dataset",
        str(folder),
        "--output_dir",
        str(output),
        "--use_cpu",
        "--image_size",
        "32",
        "--max_steps",
        "2",
    ]
    flags += ["--per_device_train_batch_size", "2", "--bootstrap_samples", "20", "--disable_tqdm", "True"]
    return [*flags, "--report_to", "none", "--config", json.dumps(ARCHITECTURE)]


def saved(folder, **metadata):
    prepared_dataset(train=8, validation=6, test=6).save_to_disk(str(folder))
    (folder / "resformer.json").write_text(json.dumps(metadata))
    return folder


@pytest.mark.long
def test_an_exclusive_run_from_training_to_results(tmp_path, caplog, capsys):
    """From a checkpoint of several labels with thresholds: the dataset decides."""
    folder, before = saved(tmp_path / "data", labels_exclusive=True), tmp_path / "before"
    settings = {"classification_labels": CLASS_LABELS, "classification_thresholds": [0.4, 0.6]}
    ResFormerForMultiTask(tiny_config(id2label=dict(enumerate(MASK_CLASSES)), **settings)).save_pretrained(before)
    ResFormerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(before)
    with caplog.at_level(logging.INFO):
        assert train.main([*run_flags(folder, tmp_path / "run"), "--model", str(before)]) == 0
    assert "Image-level classes: exclusive, since every labelled row" in caplog.text
    config = ResFormerConfig.from_pretrained(tmp_path / "run")
    assert (config.classification_type, config.classification_thresholds) == ("exclusive", None)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["thresholds"] == {}
    decided = results["decisions"]
    labelled = sum(decided["red"].values())
    assert sum(counts["tp"] + counts["fp"] for counts in decided.values()) == labelled
    assert results["model"]["balanced_accuracy"]["n"] == labelled
    flags = [
        "--model",
        str(tmp_path / "run"),
        "--dataset",
        str(folder),
        "--output",
        str(tmp_path / "out"),
        "--use_cpu",
    ]
    assert evaluate.main([*flags, "--choose_thresholds"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "there is no threshold to choose" in errors[0]
    assert evaluate.main([*flags, "--bootstrap_samples", "0"]) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["decisions"] == decided
