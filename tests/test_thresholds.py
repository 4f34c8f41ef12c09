"""Thresholds of image-level classes: the best balanced accuracy there is, and 0.5 where nothing can be chosen."""

import logging

import numpy as np
import pytest
import sklearn.metrics

from modeling_resformer.metrics.thresholds import choose_thresholds


def test_by_hand():
    """Any threshold in (0.2, 0.3] is perfect for a; for b, in (0.2, 0.4], one of three negatives is lost; c is fine at 0.5."""
    probabilities = np.array([[0.1, 0.2, 0.3], [0.2, 0.9, 0.4], [0.3, 0.4, 0.6], [0.4, 0.1, 0.7]])
    true = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1]])
    assert choose_thresholds(probabilities, true, "abc") == pytest.approx([0.25, 0.3, 0.5])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [1, 6])
def test_no_threshold_is_better(seed, digits):
    """Tried one by one, with scikit-learn's score; one digit makes many ties."""
    rng = np.random.default_rng(seed)
    true = (rng.random((60, 1)) < 0.2).astype(float)
    probabilities = np.round(np.clip(0.3 * true + 0.7 * rng.random((60, 1)), 0, 1), digits)
    (threshold,) = choose_thresholds(probabilities, true, ["rare"])

    def score(value):
        return sklearn.metrics.balanced_accuracy_score(true[:, 0], probabilities[:, 0] >= value)

    assert score(threshold) == pytest.approx(max(score(value) for value in probabilities[:, 0]))


def test_unknown_entries_are_left_out():
    probabilities, true = np.array([[0.1], [0.2], [0.3], [0.25]]), np.array([[0.0], [0.0], [1.0], [-100.0]])
    assert choose_thresholds(probabilities, true, ["a"]) == choose_thresholds(probabilities[:3], true[:3], ["a"])


@pytest.mark.parametrize("value", [0.0, 1.0, -100.0])
def test_a_class_that_never_or_always_occurs_keeps_one_half_with_a_warning(value, caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_thresholds(np.array([[0.2], [0.3]]), np.full((2, 1), value), ["melanoma"]) == [0.5]
    assert "threshold of melanoma stays at 0.5" in caplog.text


@pytest.mark.parametrize(("number", "warned"), [(9, True), (10, False)])
def test_a_threshold_from_few_rows_comes_with_a_warning(number, warned, caplog):
    probabilities, true = np.linspace(0, 1, 30)[:, None], np.zeros((30, 1))
    true[-number:] = 1
    with caplog.at_level(logging.WARNING):
        choose_thresholds(probabilities, true, ["melanoma"])
    assert (
        f"melanoma rests on {number} rows that have the class and {30 - number} that do not" in caplog.text
    ) is warned
