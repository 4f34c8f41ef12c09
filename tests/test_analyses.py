"""Analyses of a grid: against numbers worked by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from modeling_resformer.benchmarking.analyses import agreement_of_heads, dice_by_size
from modeling_resformer.benchmarking.cell_costs import Cost
from modeling_resformer.benchmarking.cell_runs import sized_recipe
from modeling_resformer.benchmarking.grid import Cell, Grid
from modeling_resformer.benchmarking.table_figures import coloured, pareto_front
from modeling_resformer.benchmarking.table_lines import CellAnswers, labels_from_masks
from modeling_resformer.evaluation.answers import Classes, ScoredRows
from modeling_resformer.metrics.counts import Counts


def answered(tp, fp, fn, probabilities=None, labels=None, names=("background", "a")):
    """Of N images of 1000 pixels; counts (N, S - 1) of the foreground classes."""
    foreground = [np.asarray(part).reshape(len(tp), -1) for part in (tp, fp, fn)]
    whole = [np.column_stack([np.zeros(len(tp), dtype=int), part]) for part in foreground]
    counts = Counts(*whole, 1000 - sum(whole))
    index = np.arange(len(tp))
    rows = ScoredRows(index, index, np.ones(len(tp), dtype=bool), counts, probabilities, labels)
    classes = Classes(tuple(names), tuple(names[1:]), (0.5,) * (len(names) - 1))
    return CellAnswers(rows, classes, {}, {})


def test_dice_by_the_size_of_the_lesion():
    """Twelve lesions of 10 to 120 pixels: the three smallest are missed, all others found whole; one image without any."""
    size = np.array([*range(10, 130, 10), 0])
    missed = size <= 30
    means, medians = dice_by_size([answered(np.where(missed, 0, size), 0 * size, np.where(missed, size, 0))])
    assert means.tolist() == [0.0, 1.0, 1.0, 1.0]
    assert medians == pytest.approx([0.02, 0.05, 0.08, 0.11])


def test_the_heads_agree_as_scikit_learn_says():
    rng = np.random.default_rng(0)
    seen, said = rng.random((40, 2)) < 0.4, rng.random((40, 2))
    found = agreement_of_heads([answered(5 * seen, 0 * seen, 0 * seen, said, 1.0 * seen, ("background", "a", "b"))])
    assert found.share == pytest.approx((seen == (said >= 0.5)).mean())
    assert found.kappa == pytest.approx(cohen_kappa_score(seen.ravel(), said.ravel() >= 0.5))
    assert found.n == 80


def test_labels_are_read_off_masks_where_one_pixel_is_predicted():
    answer = answered([3, 0, 0], [0, 1, 0], [0, 0, 9], np.zeros((3, 1)), np.array([[1.0], [0.0], [1.0]]))
    derived = labels_from_masks(answer)
    assert derived.classes.decided(derived.rows.probabilities).ravel().tolist() == [True, True, False]
    assert derived.rows.probabilities[0] > derived.rows.probabilities[1]


def test_the_front_holds_what_none_beats():
    points = [(1, 50), (2, 70), (3, 60), (4, 80), (4, 75), (5, 80)]
    assert pareto_front(points) == [(1, 50), (2, 70), (4, 80)]


def test_colours_are_those_of_the_papers_figures():
    from PIL import Image

    true, found = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    pixels = np.asarray(coloured(Image.new("RGB", (4, 1), "black"), true, found))[0].astype(int)
    yellow, red, green, nothing = pixels
    assert yellow[0] > 100 < yellow[1] and yellow[2] == 0
    assert red[0] > 2 * red[1:].max() and green[1] > 2 * max(green[0], green[2]) and not nothing.any()


@pytest.mark.parametrize(("an_epoch", "epochs"), [(100.0, 12.0), (1300.0, 0.92), (650.0, 1.84), (600.0, 2.0)])
def test_equal_time_becomes_epochs(an_epoch, epochs):
    settings = {"datasets": {"d": {}}, "models": {"m": {"flags": {"num_train_epochs": 60}}}}
    grid = Grid("g", settings, (), (0,), cpu_minutes=20)
    cost = Cost(1, 1.0, 1.0, 1.0, None, an_epoch, 0.0, an_epoch)
    assert sized_recipe(grid, Cell("d", "m", 0), cost)["num_train_epochs"] == epochs
