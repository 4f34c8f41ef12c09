"""Which rows of an evaluated split its pages show: the worst, the best, and some chosen without a look at them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.scores import jaccard
from .answers import ScoredRows


CASES_A_ROW = 6
SAMPLES = 12


@dataclass(frozen=True)
class Ranking:
    """How good the rows came out, the worst first.

    Attributes:
        positions: (M,) of the rows that have a score.
        scores: (M,) theirs, ascending; of equal ones the row with more wrong pixels, or the worse single answer, comes first.
        kinds: (M,) rows that fail in the same class, and have the same labels, have the same number.
        name: what the score is.
    """

    positions: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    name: str

    def worst(self, number: int) -> list[int]:
        """Up to `number` positions, the worst first; where more share a score than there is room for, kinds take turns."""
        return self._chosen(np.arange(len(self.positions)), number)

    def best(self, number: int, but: Sequence[int] = ()) -> list[int]:
        """Likewise from the other end, without the positions that are shown already."""
        order = np.arange(len(self.positions))[::-1]
        return self._chosen(order[~np.isin(self.positions[order], but)], number)

    def sharing(self, place: int) -> int:
        """How many rows have the worst score (`place` 0) or the best (-1)."""
        return int((self.scores == self.scores[place]).sum()) if len(self.scores) else 0

    def _chosen(self, order: np.ndarray, number: int) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < min(number, len(order)):
            group = order[self.scores[order] == self.scores[order[len(chosen)]]]
            chosen += _by_turns(group, self.kinds)[: number - len(chosen)]
        return self.positions[chosen].tolist()


@dataclass(frozen=True)
class ShownRows:
    """Positions among the rows scored.

    Attributes:
        ranked: all that have a score.
        worst, best: of `report.png`, from either end; no row is in both.
        samples: of `samples.png`, ascending.
    """

    ranked: Ranking
    worst: Sequence[int]
    best: Sequence[int]
    samples: Sequence[int]

    @classmethod
    def of(cls, rows: ScoredRows) -> "ShownRows":
        """The rows to show of these."""
        ranked = ranking(rows)
        worst = ranked.worst(CASES_A_ROW)
        best = ranked.best(CASES_A_ROW, but=worst)
        return cls(ranked, worst, best, evenly_spaced(len(rows.row_index), SAMPLES))

    @property
    def positions(self) -> set[int]:
        """All of them."""
        return {*self.worst, *self.best, *self.samples}


def ranking(rows: ScoredRows) -> Ranking:
    """Rank the rows of an evaluation.

    With masks the score is the Jaccard coefficient, mean over the foreground classes in truth or prediction, of the rows that
    have any; without, the mean probability of the right answer over the labelled classes.
    """
    if rows.counts is not None:
        values, name = jaccard(rows.counts, empty=np.nan)[:, 1:], "Jaccard"
        wrong = (rows.counts.fp + rows.counts.fn)[:, 1:].astype(np.float64)
        severity = wrong.sum(axis=1) / np.maximum(rows.counts.annotated.max(axis=1), 1)
    else:
        right = np.where(rows.class_labels == 1, rows.probabilities, 1 - rows.probabilities)
        values, name = np.where(rows.class_labels >= 0, right, np.nan), "mean probability of the right answer"
        wrong = np.where(rows.class_labels >= 0, 1 - right, 0)
        severity = wrong.max(axis=1)
    known = ~np.isnan(values)
    positions = np.flatnonzero(known.any(axis=1))
    scores = np.where(known, values, 0).sum(axis=1)[positions] / known.sum(axis=1)[positions]
    facts = [wrong.argmax(axis=1), *((rows.class_labels == 1).T if rows.probabilities is not None else [])]
    kinds = np.unique(np.stack(facts, axis=1), axis=0, return_inverse=True)[1].ravel()[positions]
    order = np.lexsort((-severity[positions], scores))
    return Ranking(positions[order], scores[order], kinds[order], name)


def _by_turns(items: np.ndarray, kinds: np.ndarray) -> list[int]:
    """Items in order, but the first of each kind before the second of any."""
    seen: Counter[int] = Counter()
    turns = []
    for item in items.tolist():
        turns.append(seen[kinds[item]])
        seen[kinds[item]] += 1
    return items[np.argsort(turns, kind="stable")].tolist()


def evenly_spaced(length: int, number: int) -> list[int]:
    """Up to `number` positions spread over `length` rows, chosen without a look at them."""
    return sorted(set(np.linspace(0, length - 1, min(number, length)).round().astype(int).tolist()))
