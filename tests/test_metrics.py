"""Counts and scores against hand-worked tables, scikit-learn and MONAI."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.metrics
import torch
from monai.metrics import DiceMetric, MeanIoU
from PIL import Image

from modeling_resformer.metrics import counts as counts_module
from modeling_resformer.metrics.baselines import baseline_counts, otsu_mask, otsu_threshold, summarise_training_masks
from modeling_resformer.metrics.calibration import BinnedGaps, reliability
from modeling_resformer.metrics.counts import Counts, label_counts, mask_counts, sum_by_case
from modeling_resformer.metrics.score_table import SCORES, is_better_lower
from modeling_resformer.metrics.scores import (
    Bootstrap,
    area_under_curve,
    classification_scores,
    dice,
    jaccard,
    mask_calibration_scores,
    roc_curve,
    segmentation_scores,
)


NAMES = ["background", "fluid", "detachment"]


@pytest.fixture
def masks():
    """12 images of 3 classes with empty truths, empty predictions and ignored pixels among them."""
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 3, (12, 9, 11)), rng.integers(0, 3, (12, 9, 11))
    true[0] = predicted[0] = 0
    true[1][true[1] == 2] = 0
    predicted[2][predicted[2] == 1] = 0
    true[3][true[3] == 1] = predicted[3][predicted[3] == 1] = 0
    return predicted, true


def one_hot(mask):
    return torch.nn.functional.one_hot(torch.as_tensor(mask), 3).permute(0, 3, 1, 2)


def as_tuples(scores):
    """NumPy's comparison takes NaN for equal in tuples, not in dataclasses."""
    return {name: dataclasses.astuple(score) for name, score in scores.items()}


def test_mask_counts_of_a_table_worked_out_by_hand():
    predicted = np.array([[[0, 1, 1], [2, 2, 0]]])
    true = np.array([[[0, 1, 0], [2, 1, 255]]])
    counts = mask_counts(predicted, true, num_classes=3)
    # class:                     0  1  2     (the pixel of 255 counts nowhere)
    assert counts.tp.tolist() == [[1, 1, 1]]
    assert counts.fp.tolist() == [[0, 1, 1]]
    assert counts.fn.tolist() == [[1, 1, 0]]
    assert counts.tn.tolist() == [[3, 2, 3]]


def test_mask_counts_equal_the_confusion_matrix_of_scikit_learn(masks):
    predicted, true = masks
    true = np.where(np.random.default_rng(1).random(true.shape) < 0.2, 255, true)
    counts = mask_counts(torch.as_tensor(predicted), torch.as_tensor(true), num_classes=3)
    for image in range(len(true)):
        valid = true[image] != 255
        tables = sklearn.metrics.multilabel_confusion_matrix(
            true[image][valid], predicted[image][valid], labels=[0, 1, 2]
        )
        ours = np.stack([part[image] for part in counts])
        np.testing.assert_array_equal(ours, [tables[:, 1, 1], tables[:, 0, 1], tables[:, 1, 0], tables[:, 0, 0]])


def test_masks_too_large_to_compare_at_once_are_counted_in_strips(masks, monkeypatch):
    predicted, true = masks
    whole = mask_counts(predicted, true, 3)
    monkeypatch.setattr(counts_module, "_MAX_PIXELS", 300)
    in_strips = mask_counts(predicted, true, 3)
    np.testing.assert_array_equal(np.stack(in_strips), np.stack(whole))
    monkeypatch.setattr(counts_module, "_MAX_PIXELS", 1)
    np.testing.assert_array_equal(np.stack(mask_counts(predicted, true, 3)), np.stack(whole))


@pytest.mark.parametrize(
    ("predicted", "true", "message"),
    [
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 3)), r"\(1, 2, 2\)"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), 128), "128..128"),
        (np.full((1, 2, 2), 3), np.zeros((1, 2, 2)), "predicted mask holds values 3..3"),
    ],
)
def test_mask_counts_refuse_what_is_no_index_mask(predicted, true, message):
    with pytest.raises(ValueError, match=message):
        mask_counts(predicted, true, num_classes=3)


def test_sum_by_case():
    part = np.array([[1, 2], [10, 20], [100, 200]])
    summed, cases = sum_by_case(Counts(part, part, part, part), np.array([7, 3, 7]))
    assert cases.tolist() == [3, 7]
    assert summed.tp.tolist() == [[10, 20], [101, 202]]


def test_dice_and_jaccard_of_a_table_worked_out_by_hand():
    #                  tp fp fn tn
    table = np.array([[4, 2, 2, 8], [0, 0, 0, 16], [0, 3, 0, 13], [0, 0, 0, 0]])
    counts = Counts(*table.T[..., None])
    np.testing.assert_allclose(dice(counts)[:, 0], [8 / 12, 1, 0, np.nan])
    np.testing.assert_allclose(jaccard(counts)[:, 0], [4 / 8, 1, 0, np.nan])
    np.testing.assert_allclose(dice(counts, empty=np.nan)[:, 0], [8 / 12, np.nan, 0, np.nan])
    scores = segmentation_scores(Counts(*np.stack([table.T] * 2, axis=2)), np.arange(4), ["background", "lesion"])
    expected = {
        "dice": (8 / 12 + 1 + 0) / 3,
        "jaccard": (4 / 8 + 1 + 0) / 3,
        "dice_present": 8 / 12,
        "jaccard_present": 4 / 8,
        "false_positive_rate_empty": 1 / 2,
        "dice_volume": (8 / 12 + 0) / 2,
    }
    numbers = {"dice": 3, "jaccard": 3, "dice_present": 1, "jaccard_present": 1, "dice_volume": 2}
    assert {name: scores[name].value for name in expected} == pytest.approx(expected)
    assert {name: scores[name].n for name in numbers} == numbers
    assert scores["dice"].value == scores["dice_lesion"].value


def test_volume_scores_of_slices_worked_out_by_hand():
    """Case 0: two slices, 6 true and 7 predicted pixels, 5 shared; case 1: nothing true, 4 predicted; case 2: empty."""
    true = np.zeros((4, 2, 4), dtype=int)
    predicted = np.zeros((4, 2, 4), dtype=int)
    true[0].flat[:4], predicted[0].flat[:5] = 1, 1
    true[1].flat[:2], predicted[1].flat[1:3] = 1, 1
    predicted[2].flat[:4] = 1
    case_index = np.array([0, 0, 1, 2])
    counts = mask_counts(predicted, true, 2)
    scores = segmentation_scores(counts, case_index, ["background", "fluid"], pixel_volume=np.full(4, 0.5))
    assert scores["dice_volume_fluid"].value == pytest.approx((2 * 5 / 13 + 0) / 2)
    assert scores["dice_volume_fluid"].n == 2
    assert scores["volume_difference_fluid"].value == pytest.approx((0.5 * 1 + 0.5 * 4 + 0) / 3)
    unknown = segmentation_scores(counts, case_index, ["background", "fluid"], np.array([0.5, np.nan, 0.5, 0.5]))
    assert unknown["volume_difference_fluid"].n == 2


def test_scores_agree_with_monai(masks):
    predicted, true = masks
    scores = segmentation_scores(mask_counts(predicted, true, 3), np.arange(len(true)), NAMES)
    for name, metric in (("dice", DiceMetric), ("jaccard", MeanIoU)):
        for suffix, ignore_empty in (("_present", True), ("", False)):
            reference = metric(include_background=True, reduction="mean_batch", ignore_empty=ignore_empty)
            reference(one_hot(predicted), one_hot(true))
            expected = reference.aggregate().numpy()
            ours = [scores[f"{name}{suffix}_{class_name}"].value for class_name in NAMES]
            np.testing.assert_allclose(ours, expected, rtol=1e-6)
            assert scores[name + suffix].value == pytest.approx(expected[1:].mean(), rel=1e-6)


def test_dice_follows_from_jaccard(masks):
    counts = mask_counts(*masks, 3)
    np.testing.assert_allclose(dice(counts), 2 * jaccard(counts) / (1 + jaccard(counts)))


def test_a_class_that_never_occurs_is_nan_and_left_out_of_means():
    true = np.array([[[0, 1], [1, 1]]])
    scores = segmentation_scores(mask_counts(true, true, 3), np.zeros(1), NAMES)
    assert np.isnan(scores["dice_present_detachment"].value)
    assert scores["dice_present_detachment"].n == 0
    assert scores["dice_present"].value == 1


def test_an_image_without_annotation_takes_part_in_no_mask_score(masks):
    predicted, true = masks
    with_unlabelled = np.concatenate([true, np.full((2, 9, 11), 255)])
    more = np.concatenate([predicted, predicted[:2]])
    scores = segmentation_scores(mask_counts(predicted, true, 3), np.arange(12), NAMES)
    again = segmentation_scores(mask_counts(more, with_unlabelled, 3), np.arange(14), NAMES)
    np.testing.assert_equal(as_tuples(again), as_tuples(scores))


def test_label_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(3)
    true, probabilities = (rng.random((40, 3)) < 0.4).astype(float), rng.random((40, 3)).round(1)
    scores = classification_scores(probabilities, true, np.arange(40), NAMES, auc_classes=NAMES[1:])
    decided, flat_true = (probabilities >= 0.5).ravel(), true.ravel()
    assert scores["accuracy"].value == pytest.approx(sklearn.metrics.accuracy_score(flat_true, decided))
    assert scores["sensitivity"].value == pytest.approx(sklearn.metrics.recall_score(flat_true, decided))
    assert scores["specificity"].value == pytest.approx(sklearn.metrics.recall_score(flat_true, decided, pos_label=0))
    areas = sklearn.metrics.roc_auc_score(true, probabilities, average=None)
    assert [scores[f"auc_{name}"].value for name in NAMES] == pytest.approx(areas.tolist())
    assert scores["auc"].value == pytest.approx(areas.mean())
    assert scores["auc_fluid+detachment"].value == pytest.approx(areas[1:].mean())
    assert scores["accuracy"].n == 120
    assert scores["auc"].n == 40


def test_weighted_area_agrees_with_scikit_learn():
    rng = np.random.default_rng(4)
    true, scores, weights = rng.integers(0, 2, 50), rng.integers(0, 9, 50), rng.integers(0, 4, (3, 50)).astype(float)
    expected = [sklearn.metrics.roc_auc_score(true, scores, sample_weight=row) for row in weights]
    assert area_under_curve(scores, true, weights).tolist() == pytest.approx(expected)


def test_accuracy_identities_of_one_hot_truth():
    """Acc = (Sen + 2 Spe) / 3 with one true class of three, whatever is predicted; Acc lies between the two."""
    rng = np.random.default_rng(5)
    true = np.eye(3)[rng.integers(0, 3, 30)]
    scores = classification_scores(rng.random((30, 3)), true, np.arange(30), NAMES)
    acc, sen, spe = (scores[name].value for name in ("accuracy", "sensitivity", "specificity"))
    assert acc == pytest.approx((sen + 2 * spe) / 3)
    assert min(sen, spe) <= acc <= max(sen, spe)


def test_unknown_labels_count_nowhere():
    probabilities = np.array([[0.9, 0.2], [0.4, 0.7], [0.8, 0.6]])
    true = np.array([[1, -100], [0, 1], [-100, np.nan]])
    counts = label_counts(probabilities >= 0.5, true)
    assert counts.annotated.tolist() == [[1, 0], [1, 1], [0, 0]]
    scores = classification_scores(probabilities, true, np.arange(3), ["a", "b"])
    assert (scores["accuracy"].value, scores["accuracy"].n) == (1, 3)
    assert (scores["auc_a"].value, scores["auc"].n) == (1, 2)
    assert np.isnan(scores["auc_b"].value)


def test_sensitivity_counts_the_positives_and_specificity_the_negatives():
    """Of a 2 of 4 known are there, of b 1 of 3: 7 are known in all."""
    true = np.array([[1, 1], [1, 0], [0, 0], [0, -100], [-100, -100]])
    scores = classification_scores(np.full((5, 2), 0.7), true, np.arange(5), ["a", "b"])
    expected = {
        "accuracy": (7, 4, 3),
        "sensitivity": (3, 2, 1),
        "specificity": (4, 2, 2),
    }
    assert {name: tuple(scores[name + end].n for end in ("", "_a", "_b")) for name in expected} == expected
    none = classification_scores(np.full((2, 1), 0.7), np.zeros((2, 1)), np.arange(2), ["a"])
    assert (none["sensitivity_a"].n, none["sensitivity"].n, none["specificity_a"].n) == (0, 0, 2)


def test_thresholds_are_per_class_and_inclusive():
    probabilities, true = np.array([[0.3, 0.3]]), np.array([[1.0, 0.0]])
    scores = classification_scores(probabilities, true, np.zeros(1), ["a", "b"], thresholds=[0.3, 0.31])
    assert scores["accuracy"].value == 1


def test_calibration_error_of_a_table_worked_out_by_hand():
    """Bin [.2, .3): 2 rows, mean p .25, half true; bin [.9, 1]: 2 rows, mean p .95, all true."""
    probabilities, true = np.array([0.25, 0.25, 0.9, 1.0]), np.array([1, 0, 1, 1])
    assert plug_in_error(probabilities, true) == pytest.approx((2 * 0.25 + 2 * 0.05) / 4)


def plug_in_error(probabilities, true):
    return BinnedGaps.of(probabilities, true).plug_in(np.ones((1, len(true))))[0]


def test_reliability_bins_agree_with_scikit_learn_and_with_the_calibration_error():
    rng = np.random.default_rng(8)
    probabilities = rng.random(300) * 0.8
    true = np.where(rng.random(300) < 0.1, -100, rng.random(300) < probabilities).astype(float)
    known = true >= 0
    bins = reliability(probabilities, true)
    filled = [entry for entry in bins if entry.n]
    share, mean = sklearn.calibration.calibration_curve(true[known], probabilities[known], n_bins=10)
    np.testing.assert_allclose([entry.share_present for entry in filled], share)
    np.testing.assert_allclose([entry.mean_probability for entry in filled], mean)
    assert sum(entry.n for entry in bins) == known.sum()
    assert [entry.n for entry in bins[8:]] == [0, 0]
    gaps = [entry.n * abs(entry.mean_probability - entry.share_present) for entry in filled]
    assert plug_in_error(probabilities, true) == pytest.approx(sum(gaps) / known.sum())


def test_the_roc_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(9)
    scores = rng.random(80).round(1)
    true = np.where(rng.random(80) < 0.1, -100, rng.integers(0, 2, 80)).astype(float)
    known = true >= 0
    expected = sklearn.metrics.roc_curve(true[known], scores[known], drop_intermediate=False)[:2]
    false_positive, true_positive = roc_curve(scores, true)
    np.testing.assert_allclose([false_positive, true_positive], expected)
    area = sklearn.metrics.auc(false_positive, true_positive)
    assert area_under_curve(scores, true)[0] == pytest.approx(area)
    assert np.isnan(roc_curve(scores, np.ones(80))[0]).all()


def test_an_unknown_auc_class_is_refused():
    with pytest.raises(ValueError, match="melanom"):
        classification_scores(np.ones((1, 1)), np.ones((1, 1)), np.zeros(1), ["nevus"], auc_classes=["melanom"])


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    """Cases of 4 slices that agree entirely: an interval that took slices for independent would cover far less often."""
    rng, covered = np.random.default_rng(6), 0
    case_index = np.repeat(np.arange(40), 4)
    for trial in range(200):
        tp = np.repeat(rng.integers(0, 2, 40), 4)[:, None]
        counts = Counts(np.hstack([tp, tp]), np.zeros((160, 2)), np.hstack([1 - tp, 1 - tp]), np.zeros((160, 2)))
        scores = segmentation_scores(
            counts, case_index, ["background", "lesion"], bootstrap=Bootstrap(200, seed=trial)
        )
        covered += scores["dice"].low <= 0.5 <= scores["dice"].high
    assert 0.88 <= covered / 200 <= 0.99


def test_intervals_are_reproducible_and_absent_for_one_case(masks):
    counts = mask_counts(*masks, 3)
    first, second = (segmentation_scores(counts, np.arange(12), NAMES, bootstrap=Bootstrap(50)) for _ in range(2))
    np.testing.assert_equal(as_tuples(first), as_tuples(second))
    assert first["dice"].low < first["dice"].value < first["dice"].high
    one_case = segmentation_scores(counts, np.zeros(12), NAMES, bootstrap=Bootstrap(50))
    assert np.isnan(one_case["dice"].low)


def test_means_leave_out_classes_that_never_occur_and_so_do_their_intervals():
    """IRF agrees in half of the images; PED never occurs and is never predicted, SRF never occurs and always is."""
    half = np.arange(20) % 2
    tp, fp, fn = (np.zeros((20, 4), dtype=int) for _ in range(3))
    tp[:, 1], fn[:, 1], fp[:, 2] = half, 1 - half, 1
    counts = Counts(tp, fp, fn, np.full((20, 4), 5))
    scores = segmentation_scores(
        counts, np.arange(20), ["background", "IRF", "SRF", "PED"], np.ones(20), Bootstrap(200)
    )
    for name in ("dice", "jaccard", "dice_present", "jaccard_present", "dice_volume"):
        np.testing.assert_equal(dataclasses.astuple(scores[name]), dataclasses.astuple(scores[f"{name}_IRF"]))
    assert scores["dice"].value == 0.5
    assert 0 < scores["dice"].low < 0.5 < scores["dice"].high < 1
    assert (scores["dice_PED"].value, scores["dice_volume_SRF"].value) == (1, 0)
    # What is predicted of SRF counts: half a pixel of IRF missed a case, one of SRF too many, none of PED; IRF is nowhere absent.
    assert scores["volume_difference"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert scores["false_positive_rate_empty"].value == pytest.approx((1 + 0) / 2)


def test_a_mean_keeps_its_classes_in_every_resample():
    """Class a scores 1 in every case, b at most 2/3 in the five cases that hold it: a sample without b is no sample of their mean."""
    tp, fn = np.ones((40, 3), dtype=int), np.zeros((40, 3), dtype=int)
    tp[:, 2], fn[:5, 2] = 0, 1
    tp[0, 2] = 1  # one of the five is found by half
    counts = Counts(tp, np.zeros_like(tp), fn, np.ones_like(tp))
    samples = Bootstrap(2000, level=0.998)
    scores = segmentation_scores(counts, np.arange(40), NAMES, bootstrap=samples)
    mean, rare = scores["dice_present"], scores["dice_present_detachment"]
    assert mean.value == pytest.approx((1 + rare.value) / 2)
    assert [mean.low, mean.high] == pytest.approx([(1 + rare.low) / 2, (1 + rare.high) / 2])


@pytest.mark.parametrize("shared", [1, 0.7])
def test_an_interval_of_no_width_is_none(shared):
    """Six cases, all with the same score: perfect, or 7 of 10 pixels shared; rounding differs from sample to sample."""
    tp, missed = np.full((6, 2), round(10 * shared)), np.full((6, 2), round(10 * (1 - shared)))
    masks = segmentation_scores(
        Counts(tp, missed, missed, np.full((6, 2), 9)), np.arange(6), NAMES[:2], bootstrap=Bootstrap(200)
    )
    # Ten cases of either kind, all told rightly and with certainty.
    true = np.arange(20)[:, None] % 2.0
    labels = classification_scores(true, true, np.arange(20), ["lesion"], bootstrap=Bootstrap(200))
    assert masks["dice"].value == pytest.approx(shared)
    assert labels["calibration_error"].value == 0
    names = ("accuracy", "sensitivity", "specificity", "auc", "calibration_error")
    for score in [masks["dice"], masks["jaccard"], masks["dice_volume_fluid"], *(labels[name] for name in names)]:
        assert np.isnan([score.low, score.high]).all(), score
    assert {labels[name].value for name in names[:4]} == {1}


@pytest.mark.parametrize(("cases", "has_interval"), [(2, False), (4, False), (5, True)])
def test_an_interval_needs_five_cases_that_contribute(cases, has_interval):
    """`cases` of 20 cases of two images each hold the class, in the masks as in the labels."""
    case_index, holds = np.repeat(np.arange(20), 2), np.repeat(np.arange(20) < cases, 2)
    tp = np.where(holds, np.arange(40) % 7 + 1, 0)
    counts = Counts(*(np.stack([part, part], axis=1) for part in (tp, 0 * tp, tp % 3 * holds, tp + 1)))
    masks = segmentation_scores(counts, case_index, ["background", "lesion"], bootstrap=Bootstrap(50))
    probabilities = np.random.default_rng(0).random((40, 1))
    labels = classification_scores(
        probabilities, holds[:, None].astype(float), case_index, ["lesion"], bootstrap=Bootstrap(50)
    )
    rare = [masks[name] for name in ("dice_present", "dice_present_lesion", "dice_volume_lesion")]
    rare += [labels[name] for name in ("sensitivity", "sensitivity_lesion", "auc", "auc_lesion")]
    assert {not np.isnan(score.low) for score in rare} == {has_interval}
    common = [masks["dice"], labels["accuracy"], labels["specificity_lesion"], labels["calibration_error"]]
    assert not np.isnan([score.low for score in common]).any()
    assert not np.isnan([score.value for score in rare + common]).any()


def test_a_mean_has_an_interval_only_where_each_of_its_classes_has_one():
    tp = np.ones((40, 3), dtype=int)
    tp[4:, 2] = 0
    counts = Counts(tp, np.arange(40)[:, None] % 3 * tp, 0 * tp, 0 * tp + 1)
    scores = segmentation_scores(counts, np.arange(40), NAMES, bootstrap=Bootstrap(50))
    assert not np.isnan(scores["dice_present_fluid"].low)
    assert np.isnan([scores[name].low for name in ("dice_present_detachment", "dice_present")]).all()


@pytest.mark.parametrize(
    ("shift", "cases", "images"),
    [
        *(pytest.param(shift, 300, 1, marks=pytest.mark.long) for shift in (0.0, 0.05, 0.1)),
        (0.1, 100, 4),
        (0.0, 100, 4),
    ],
)
def test_the_calibration_errors_interval_covers_the_truth_and_its_own_value(shift, cases, images):
    """Probabilities that are right, or too high by `shift`: that is the true error. Images of a case agree entirely."""
    rng, errors, naive, covered, trials = np.random.default_rng(int(1000 * shift) + images), [], [], 0, 120
    case_index = np.repeat(np.arange(cases), images)
    for trial in range(trials):
        right = rng.uniform(0, 0.85, cases)
        labels = (rng.random(cases) < right).astype(float)[case_index][:, None]
        probabilities = (right + shift)[case_index][:, None]
        scores = classification_scores(probabilities, labels, case_index, ["a"], bootstrap=Bootstrap(200, seed=trial))
        score = scores["calibration_error"]
        assert score.low <= score.value <= score.high
        covered += score.low <= shift <= score.high
        errors.append(score.value)
        naive.append(plug_in_error(probabilities[:, 0], labels[:, 0]))
    assert covered / trials >= 0.88
    assert abs(np.mean(errors) - shift) < max(0.75 * abs(np.mean(naive) - shift), 0.01)


def test_the_debiased_calibration_error_worked_out_by_hand():
    """One bin, p = 0.25 in 8 rows of which 4 are true: S = -2, and V = 8/7 * 8 * 0.25 from the spread of the rows."""
    true = np.array([1.0, 0.0] * 4)
    binned = BinnedGaps.of(np.full(8, 0.25), true)
    expected_distance = scipy.stats.foldnorm(c=2 / np.sqrt(16 / 7), scale=np.sqrt(16 / 7)).mean()
    assert binned.debiased(np.ones((1, 8)))[0] == pytest.approx((2 * 2 - expected_distance) / 8)
    # Twice the same: of whole cases there are still only eight.
    doubled = BinnedGaps.of(np.full(16, 0.25), np.repeat(true, 2), np.repeat(np.arange(8), 2))
    assert doubled.debiased(np.ones((1, 8)))[0] == pytest.approx((2 * 2 - expected_distance) / 8)


def test_otsu_threshold_is_the_best_of_all_splits():
    grey = np.random.default_rng(7).integers(0, 60, 500).astype(float) ** 1.3
    threshold = otsu_threshold(grey)

    def within(t):
        parts = grey[grey <= t], grey[grey > t]
        return sum(part.var() * len(part) for part in parts if len(part))

    best = min(within(t) for t in np.unique(grey))
    assert within(threshold) == pytest.approx(best, rel=0.01)
    assert otsu_threshold(np.full(9, 3.0)) == 3.0


def test_otsu_mask_finds_a_dark_disc_in_8_and_16_bit():
    y, x = np.mgrid[:32, :40]
    disc = (y - 16) ** 2 + (x - 20) ** 2 < 64
    grey = np.where(disc, 60, 190).astype(np.uint8)
    np.testing.assert_array_equal(otsu_mask(Image.fromarray(np.dstack([grey] * 3))), disc)
    np.testing.assert_array_equal(otsu_mask(Image.fromarray(grey.astype(np.uint16) * 257)), disc)


def test_baselines_worked_out_by_hand():
    left, top = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    left[:, :4], top[:4] = 1, 1
    masks = [Image.fromarray(mask) for mask in (left, left, top)]
    training = summarise_training_masks(masks, num_classes=2, grid=8)
    np.testing.assert_allclose(training.frequency[1][::4, ::4], [[1, 1 / 3], [2 / 3, 0]], rtol=1e-6)
    np.testing.assert_array_equal(training.mean_mask(8, 8), left)
    image = Image.fromarray(np.where(left, 10, 200).astype(np.uint8))
    rows = [{"image": image, "mask": masks[0]}, {"image": image, "mask": None}]
    first, second = (baseline_counts(row, training) for row in rows)
    jaccards = {name: jaccard(Counts.join([first[name], second[name]]))[:, 1].tolist() for name in first}
    assert jaccards["everything_lesion"] == pytest.approx([0.5, np.nan], nan_ok=True)
    assert jaccards["mean_training_mask"] == pytest.approx([1, np.nan], nan_ok=True)
    assert jaccards["otsu_threshold"] == pytest.approx([1, np.nan], nan_ok=True)


@pytest.mark.long
def test_evaluate_metrics_work_offline_and_write_nowhere_but_their_own_folder(masks, tmp_path):
    """Two batches of different size through the evaluate interface give the scores of all images at once."""
    script = """
import json, sys
import numpy as np
from modeling_resformer.metrics.dice_and_jaccard import DiceAndJaccard
from modeling_resformer.metrics.sensitivity_specificity import SensitivitySpecificity
predicted, true = np.load(sys.argv[1])
metric = DiceAndJaccard(["background", "fluid", "detachment"])
metric.add_batch(predictions=predicted[:5], references=true[:5])
metric.add_batch(predictions=predicted[5:, :4], references=true[5:, :4])
masks = metric.compute(case_index=np.arange(12) // 2, pixel_volume=np.full(12, 0.25))
labels = SensitivitySpecificity(["a", "b"]).compute(
    predictions=[[0.9, 0.2], [0.4, 0.7]], references=[[1, 1], [0, -100]], thresholds=[0.5, 0.75], auc_classes=["a"]
)
print(json.dumps([masks, labels]))
"""
    np.save(tmp_path / "masks.npy", np.stack(masks))
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": ""}
    command = [sys.executable, "-c", script, str(tmp_path / "masks.npy")]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    mask_scores, label_scores = json.loads(output.splitlines()[-1])
    predicted, true = masks
    parts = [mask_counts(predicted[:5], true[:5], 3), mask_counts(predicted[5:, :4], true[5:, :4], 3)]
    counts = Counts(*map(np.concatenate, zip(*parts, strict=True)))
    expected = segmentation_scores(counts, np.arange(12) // 2, NAMES, np.full(12, 0.25))
    n = mask_scores.pop("n")
    assert mask_scores == pytest.approx({name: score.value for name, score in expected.items()}, nan_ok=True)
    assert n == {name: score.n for name, score in expected.items()}
    assert label_scores["auc_a"] == 1
    assert (label_scores["sensitivity"], label_scores["specificity"], label_scores["n"]["accuracy"]) == (0.5, 1, 3)
    assert not (tmp_path / "home" / "metrics").exists()


def test_the_table_of_scores_has_those_that_are_computed():
    counts, rows = Counts(*np.ones((4, 2, 2), dtype=int)), np.arange(2)
    of_masks = segmentation_scores(counts, rows, ["", ""], pixel_volume=np.ones(2))
    of_masks |= mask_calibration_scores(np.ones((2, 1, 10, 2)), rows, ["", ""])
    of_classes = classification_scores(np.eye(2), np.eye(2), rows, ["", ""], thresholds=None)
    for of, computed in (("masks", of_masks), ("classes", of_classes)):
        assert {score.name for score in SCORES if score.of == of} == {name for name in computed if name[-1] != "_"}
    lower = {"volume_difference", "false_positive_rate_empty", "calibration_error", "mask_calibration_error", "brier"}
    assert {score.name for score in SCORES if score.better == "lower"} == lower
    assert is_better_lower("calibration_error_melanoma")
    assert not is_better_lower("auc_melanoma")
