"""Comparisons of models: against the scores themselves, against scipy's paired test, and Holm by hand."""

import numpy as np
import pytest

from modeling_resformer.metrics.comparison import difference, holm, seed_mean
from modeling_resformer.metrics.counts import Counts
from modeling_resformer.metrics.scores import Bootstrap, classification_scores, overall_statistics, segmentation_scores


BOOTSTRAP = Bootstrap(samples=1000)


def answers(seed, rows=60, cases=30):
    rng = np.random.default_rng(seed)
    tp, fp, fn = (rng.integers(0, 40, (rows, 3)) * (rng.random((rows, 3)) < 0.8) for _ in range(3))
    counts = Counts(tp, fp, fn, np.full((rows, 3), 200))
    true = (rng.random((rows, 2)) < 0.4).astype(float)
    return counts, np.clip(0.3 * true + 0.7 * rng.random((rows, 2)), 0, 1), true, np.arange(rows) % cases


def test_the_functions_give_the_scores_with_all_weights_one():
    counts, probabilities, true, cases = answers(0)
    found = overall_statistics(cases, counts, probabilities, true)
    scores = segmentation_scores(counts, cases, ["background", "a", "b"])
    scores |= classification_scores(probabilities, true, cases, ["x", "y"])
    assert len(found) >= 10
    for name, statistic in found.items():
        assert statistic(np.ones((1, 30)))[0] == pytest.approx(scores[name].value, abs=1e-12), name


def test_the_interval_is_that_of_the_scores():
    counts, _, _, cases = answers(1)
    mean = seed_mean([overall_statistics(cases, counts)["dice"]], 30, BOOTSTRAP)
    score = segmentation_scores(counts, cases, ["background", "a", "b"], bootstrap=BOOTSTRAP)["dice"]
    assert (mean.low, mean.high) == pytest.approx((score.low, score.high), abs=1e-9)


def of_values(values):
    values = np.asarray(values)
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_the_paired_test_agrees_with_that_of_student():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    hard = rng.normal(0.7, 0.2, 200)
    for shift in (0.0, 0.004, 0.008):
        ours, theirs = hard + rng.normal(0, 0.03, 200), hard - shift + rng.normal(0, 0.03, 200)
        found = difference(*(seed_mean([of_values(v)], 200, Bootstrap(4000)) for v in (theirs, ours)), Bootstrap(4000))
        assert found.p == pytest.approx(ttest_rel(theirs, ours).pvalue, abs=0.03)
        assert found.low < found.value < found.high


def test_seeds_are_averaged_and_their_spread_told():
    mean = seed_mean([of_values([0.2, 0.4] * 5), of_values([0.6, 0.8] * 5)], 10, BOOTSTRAP)
    assert mean.value == pytest.approx(0.5)
    assert mean.std == pytest.approx(0.4 / np.sqrt(2))


def test_of_four_cases_there_is_neither_interval_nor_test():
    few = [seed_mean([of_values(values)], 4, BOOTSTRAP) for values in ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8])]
    found = difference(*few, BOOTSTRAP)
    assert found.value == pytest.approx(-0.4)
    assert np.isnan([few[0].low, found.low, found.p]).all()


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.4, "b": 0.9})["b"] == pytest.approx(0.9)
    kept = holm({"a": 0.02, "b": float("nan")})
    assert kept["a"] == 0.02 and np.isnan(kept["b"])
