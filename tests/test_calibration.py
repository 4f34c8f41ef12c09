"""Calibration and label sets: against scikit-learn, SciPy and formulas, and alike wherever a checkpoint answers."""

import json
import math

import numpy as np
import pytest
import scipy.optimize
import sklearn.linear_model
import sklearn.metrics
import torch
from PIL import Image

from modeling_resformer import ResFormerConfig, ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.handler import EndpointHandler
from modeling_resformer.metrics.calibration import BINS
from modeling_resformer.metrics.label_sets import choose_label_sets
from modeling_resformer.metrics.scaling import (
    TEMPERATURES,
    best_temperature,
    choose_scaling,
    fit_scaling,
    pixel_losses_by_temperature,
)
from modeling_resformer.metrics.scores import classification_scores, label_set_scores, mask_calibration_scores
from modeling_resformer.metrics.thresholds import choose_thresholds
from modeling_resformer.pipeline_resformer import ResFormerPipeline


CALIBRATION = {"classification_scale": [0.5, 2.0], "classification_shift": [1.0, -0.5], "mask_temperature": 2.0}
SETS = {"label_set_thresholds": [0.0, 1.0], "label_set_level": 0.9}


def tiny_model(**settings) -> ResFormerForMultiTask:
    torch.manual_seed(0)
    config = ResFormerConfig(
        image_size=32,
        hidden_sizes=[4, 4, 8, 8],
        cnn_depths=[1, 1, 1, 1],
        transformer_depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        window_size=2,
        classification_labels=["a", "b"],
        **settings,
    )
    return ResFormerForMultiTask(config).eval()


def drawn(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logits (rows, 2) that are twice as sure as they should be, and shifted; and the truth."""
    rng = np.random.default_rng(seed)
    right = rng.normal(size=(rows, 2))
    true = (rng.random((rows, 2)) < 1 / (1 + np.exp(-right))).astype(float)
    return 2 * right + [1.0, -2.0], true


def test_scale_and_shift_are_those_of_a_logistic_regression():
    logits, true = drawn(0)
    fitted = fit_scaling(logits, true, exclusive=False, shifted=True)
    for k in range(2):
        platt = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, k : k + 1], true[:, k])
        assert fitted.scale[k] == pytest.approx(platt.coef_.item(), abs=1e-3)
        assert fitted.shift[k] == pytest.approx(platt.intercept_.item(), abs=1e-3)


@pytest.mark.parametrize("shifted", [False, True])
def test_the_softmax_scaling_is_the_optimum_that_scipy_finds(shifted):
    rng = np.random.default_rng(1)
    right = rng.normal(size=(300, 3))
    truth = np.array([rng.choice(3, p=np.exp(z) / np.exp(z).sum()) for z in right])
    logits, true = 3 * right + [0.5, 0.0, -1.0], np.eye(3)[truth]

    def loss(parameters):
        moved = logits * parameters[0] + (np.append(parameters[1:], 0.0) if shifted else 0.0)
        return -(moved[np.arange(300), truth] - scipy.special.logsumexp(moved, axis=1)).sum()

    best = scipy.optimize.minimize(loss, [1.0, 0.0, 0.0] if shifted else [1.0], method="BFGS").x
    fitted = fit_scaling(logits, true, exclusive=True, shifted=shifted)
    assert fitted.scale == pytest.approx([best[0]] * 3, abs=2e-3)
    expected = np.append(best[1:], 0.0) - np.append(best[1:], 0.0).mean() if shifted else np.zeros(3)
    assert fitted.shift == pytest.approx(expected, abs=5e-3)


def test_cross_fitting_leaves_calibrated_scores_alone_and_mends_others():
    logits, true = drawn(2)
    cases = np.arange(len(true))
    assert choose_scaling((logits - [1.0, -2.0]) / 2, true, cases, exclusive=False)[0] == "none"
    form, scaling, judged = choose_scaling(logits, true, cases, exclusive=False)
    assert form == "scale and shift"
    assert judged["scale and shift"] < judged["none"] - 0.05
    assert scaling.scale == pytest.approx([0.5, 0.5], abs=0.15)


def test_unknown_labels_and_rare_classes_do_no_harm():
    logits, true = drawn(3, rows=40)
    true[:, 1] = 0
    true[:3, 1] = 1  # too few to fit anything to
    beside = np.vstack([true, [[-100.0, -100.0]]])
    fitted = fit_scaling(np.vstack([logits, [[1e6, 1e6]]]), beside, exclusive=False, shifted=True)
    again = fit_scaling(logits, true, exclusive=False, shifted=True)
    assert fitted.scale == pytest.approx(again.scale)
    assert (fitted.scale[1], fitted.shift[1]) == (1.0, 0.0)


def test_the_temperature_of_masks_is_the_optimum_that_scipy_finds():
    torch.manual_seed(0)
    right = torch.randn(2, 3, 24, 24)
    labels = torch.distributions.Categorical(logits=right.movedim(1, -1)).sample()
    labels[0, 0] = 255
    logits, known = 2.5 * right, labels != 255

    def loss(temperature):
        rows, truth = (logits / temperature).movedim(1, -1)[known], labels[known]
        return torch.nn.functional.cross_entropy(rows, truth).item()

    losses = pixel_losses_by_temperature(logits, labels, 255)
    assert losses[-1] == known.sum()
    assert losses[10].item() == pytest.approx(loss(TEMPERATURES[10]) * known.sum().item(), rel=1e-5)
    best = scipy.optimize.minimize_scalar(loss, bounds=(0.3, 7), method="bounded").x
    assert best_temperature(losses[:-1].tolist()) == pytest.approx(best, rel=0.01)


def test_label_sets_by_hand():
    """Nine rows have a: at 80 % the 8th of ten; four have b: at 80 % the 4th; at 90 % there are too few."""
    probabilities = np.column_stack([np.arange(1, 13) / 20, np.arange(12, 0, -1) / 20])
    true = np.column_stack([np.arange(12) < 9, np.arange(12) < 4]).astype(float)
    assert choose_label_sets(probabilities, true, 0.8, "ab") == pytest.approx([0.1, 0.45])


def test_a_class_with_too_few_rows_is_in_every_set_and_said_to_be(caplog):
    assert choose_label_sets(np.full((4, 1), 0.7), np.ones((4, 1)), 0.9, ["a"]) == [0.0]
    assert "a is in every label set: 4 validation rows have it, and a level of 0.9 needs 9 or more." in caplog.text


def test_sets_cover_what_they_promise():
    """In the mean over many draws, between the level and the level + 1 / (n + 1), as the theory has it."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(3000):
        scores = rng.random(20)
        threshold = choose_label_sets(scores[:19, None], np.ones((19, 1)), 0.8, ["a"])[0]
        covered.append(scores[19] >= threshold)
    assert 0.8 - 0.02 < np.mean(covered) < 0.8 + 1 / 20 + 0.02


def test_coverage_and_size_by_hand():
    probabilities = np.array([[0.9, 0.2], [0.4, 0.6], [0.1, 0.3]])
    true = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, -100.0]])
    scores = label_set_scores(probabilities, true, np.arange(3), ["a", "b"], [0.35, 0.5])
    found = {name: score.value for name, score in scores.items()}
    assert found == pytest.approx({"coverage": 3 / 4, "coverage_a": 2 / 3, "coverage_b": 1.0, "size": 1.0})


def test_the_brier_score_is_scikit_learns():
    rng = np.random.default_rng(0)
    probabilities, true = rng.random((50, 2)), (rng.random((50, 2)) < 0.4).astype(float)
    scores = classification_scores(probabilities, true, np.arange(50), ["a", "b"])
    each = [sklearn.metrics.brier_score_loss(true[:, k], probabilities[:, k]) for k in range(2)]
    assert [scores["brier_a"].value, scores["brier_b"].value] == pytest.approx(each)
    assert scores["brier"].value == pytest.approx(np.mean(each))


def test_pixels_are_calibrated_by_hand():
    """Of 8 rows alike, 100 pixels of probability 0.75 of which half are true: they lie 0.25 apart."""
    gaps = np.zeros((8, 1, BINS, 2))
    gaps[:, 0, 7] = [100 * 0.75 - 50, 100]
    scores = mask_calibration_scores(gaps, np.arange(8), ["background", "lesion"])
    assert scores["mask_calibration_error"].value == pytest.approx(0.25)
    assert scores["mask_calibration_error_lesion"].n == 8


def test_thresholds_of_a_sensitivity():
    """Three of four positives lie at or above 0.4; the middle to the next lower score, 0.35, is 0.375."""
    probabilities = np.array([[0.9], [0.5], [0.4], [0.2], [0.35], [0.1]])
    true = np.array([[1.0], [1.0], [1.0], [1.0], [0.0], [0.0]])
    assert choose_thresholds(probabilities, true, ["a"], 0.75) == pytest.approx([0.375])
    assert choose_thresholds(probabilities, true, ["a"], 1.0) == pytest.approx([0.15])


def test_the_heads_apply_it():
    pixels = torch.rand(1, 3, 32, 32)
    plain, moved = tiny_model()(pixels), tiny_model(**CALIBRATION)(pixels)
    expected = plain.classification_logits * torch.tensor([0.5, 2.0]) + torch.tensor([1.0, -0.5])
    torch.testing.assert_close(moved.classification_logits, expected)
    torch.testing.assert_close(moved.segmentation_logits, plain.segmentation_logits / 2)


def test_pipeline_and_handler_answer_alike_after_saving(tmp_path):
    tiny_model(**CALIBRATION, **SETS).save_pretrained(tmp_path)
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model, processor = (
        ResFormerForMultiTask.from_pretrained(tmp_path),
        ResFormerImageProcessor.from_pretrained(tmp_path),
    )
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    logits = tiny_model()(pixels).classification_logits[0].tolist()
    expected = [1 / (1 + math.exp(-(0.5 * logits[0] + 1.0))), 1 / (1 + math.exp(-(2.0 * logits[1] - 0.5)))]
    answer = ResFormerPipeline(model=model, image_processor=processor)(image)
    assert list(answer["class_scores"].values()) == pytest.approx(expected, rel=1e-4)
    assert answer["label_set"] == ["a"]
    handled = EndpointHandler(str(tmp_path))({"inputs": image, "parameters": {"task": "both"}})
    assert {one["label"]: one["score"] for one in handled["classification"]} == pytest.approx(
        answer["class_scores"], rel=1e-4
    )
    assert handled["label_set"] == ["a"]


def test_models_without_it_answer_and_save_as_before(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert not model.config.is_calibrated
    assert (saved["classification_scale"], saved["mask_temperature"], saved["label_set_level"]) == (None, 1.0, None)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"classification_scale": [1.0, -1.0]}, "classification_scale"),
        ({"classification_shift": [1.0]}, "classification_shift"),
        ({"mask_temperature": 0.0}, "mask_temperature"),
        ({"label_set_level": 0.9}, "belong together"),
        ({"label_set_level": 1.5, "label_set_thresholds": [0.1, 0.2]}, "label_set_level"),
    ],
)
def test_values_out_of_range_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        tiny_model(**settings)
