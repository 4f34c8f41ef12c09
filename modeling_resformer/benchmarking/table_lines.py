"""The lines of a table: every row of a grid on one dataset with its scores, their spread, tests and costs, and the paper's figures.

Everything is read from the folder `cells`; no model and no image is needed.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInputError
from ..evaluation.answers import Classes, ScoredRows, row_score_functions
from ..evaluation.per_case import read_per_case
from ..metrics.comparison import Difference, SeedMean, difference, holm, seed_mean
from ..metrics.score_table import SCORES, is_better_lower
from ..metrics.scores import Bootstrap
from .cell_runs import RECORD, cell_folder
from .forward_times import name_of, read_times
from .free_baselines import TEXTS, baseline_folder
from .grid import Cell, Grid, Row, Table
from .paper import TEXT, rows_of, slips


KINDS = ("ours", "rival", "baseline", "published")
STAND_IN = "stand-in for"
LEVEL = 0.05  # below which a corrected p-value is marked


@dataclass(frozen=True)
class CellAnswers:
    """What one finished cell, or a baseline, answered on the test split.

    Attributes:
        rows: the answers.
        classes: of the model.
        names: `case_id` and `slice_index` of the rows.
        record: `cell.json`.
    """

    rows: ScoredRows
    classes: Classes
    names: Mapping[str, Sequence[Any]]
    record: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "CellAnswers":
        """From the folder of a finished cell. Raises `BadInputError` where its files do not fit."""
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            with (folder / "per_case.csv").open(encoding="utf-8", newline="") as file:
                lines = [(line["case_id"], int(line["slice_index"] or 0)) for line in csv.DictReader(file)]
        except (OSError, ValueError, KeyError) as error:
            raise BadInputError(
                f"{folder}: cannot be read ({error}); delete it, and the same command makes it again"
            ) from error
        masks, labels = tuple(record["mask_classes"]), tuple(record["class_labels"])
        thresholds = results.get("thresholds")
        labels = labels if thresholds is not None else ()
        decided = tuple((thresholds or {}).values()) or None
        classes = Classes(masks, labels, decided if labels else ())
        names = {"case_id": [case for case, _ in lines], "slice_index": [number for _, number in lines]}
        _, case_index = np.unique(names["case_id"], return_inverse=True)
        return cls(replace(read_per_case(folder, classes, names), case_index=case_index), classes, names, record)

    @cached_property
    def cases(self) -> int:
        return len(np.unique(self.rows.case_index))


@dataclass(frozen=True)
class Line:
    """One line of a table on one dataset.

    Attributes:
        text: what it is called.
        kind: one of `KINDS`.
        answers: of every seed that was run; none of a published system.
        scores: by name, over all classes.
        differences: to the reference, by name; p corrected by Holm over the lines of the table. None for the reference.
        raw_p: the same uncorrected.
        paper: what the paper prints for this system, in per cent, by name.
        milliseconds: of one image, where all rows were measured together.
    """

    text: str
    kind: str
    answers: Sequence[CellAnswers] = ()
    scores: Mapping[str, SeedMean] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    raw_p: Mapping[str, float] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    milliseconds: float | None = None

    @property
    def cost(self) -> Mapping[str, Any]:
        """As `cell.json` has it, with the later measurement of its time; empty where there is none."""
        cost = self.answers[0].record.get("cost", {}) if self.answers else {}
        return cost if self.milliseconds is None else {**cost, "milliseconds": self.milliseconds}

    @property
    def cpu_minutes(self) -> float | None:
        spent = [answer.record["cpu_seconds"] / 60 for answer in self.answers if "cpu_seconds" in answer.record]
        return float(np.mean(spent)) if spent else None


@dataclass(frozen=True)
class Part:
    """A table on one of its datasets.

    Attributes:
        table: of the grid.
        dataset: key of the grid.
        text: of the dataset.
        reference: text of the line that the others are tested against.
        lines: in order.
        images, cases: that were scored.
        missing: rows of which no seed is finished.
        slips: sentences on where the paper's table, or its text about it, contradicts itself.
    """

    table: Table
    dataset: str
    text: str
    reference: str
    lines: Sequence[Line]
    images: int
    cases: int
    missing: Sequence[str]
    slips: Sequence[str] = ()

    def ranked(self, score: str) -> list[str]:
        """Texts of the lines from the best value of a score on; of equal ones the first."""
        known = [line for line in self.lines if not math.isnan(value_of(line, score))]
        sign = 1 if is_better_lower(score) else -1
        return [line.text for line in sorted(known, key=lambda line: sign * value_of(line, score))]


def value_of(line: Line, score: str) -> float:
    return line.scores[score].value if score in line.scores else math.nan


def parts_of(grid: Grid, output: Path, bootstrap: Bootstrap) -> list[Part]:
    """Every table on every of its datasets of which something was run.

    Args:
        grid: that was run.
        output: with the folder `cells`.
        bootstrap: of intervals and tests.

    Raises:
        BadInputError: files are damaged, or cells were tested on other rows.
    """
    found = [part_of(grid, table, dataset, output, bootstrap) for table in grid.tables for dataset in table.datasets]
    return [part for part in found if part is not None]


def part_of(grid: Grid, table: Table, dataset: str, output: Path, bootstrap: Bootstrap) -> Part | None:
    """One table on one dataset; None where nothing of it was run."""
    answers = {row.key: answers_of_row(grid, dataset, row, output) for row in table.rows}
    texts = {row.key: text_of(row) for row in table.rows}
    rows = [row for row in table.rows if answers[row.key]]
    lines = [line_of(grid, table, dataset, row, answers[row.key], output, bootstrap) for row in rows]
    if not lines:
        return None
    check_same_cases([answer for some in answers.values() for answer in some])
    reference = texts.get(table.reference, lines[0].text)
    if table.baselines:
        lines += baseline_lines(table, dataset, answers.get(table.reference, ()), output, bootstrap)
    lines = compared(
        [line for line in lines if line.kind != "baseline" or says_of(line, table.of)], reference, bootstrap
    )
    first = lines[0].answers[0]
    return Part(
        table,
        dataset,
        grid.settings["datasets"][dataset]["text"],
        reference,
        [*lines, *published_lines(grid, table, dataset)],
        int(first.rows.annotated.sum()),
        first.cases,
        [texts[row.key] for row in table.rows if not answers[row.key]],
        slips_of(table, grid.settings["datasets"][dataset].get("paper")),
    )


def slips_of(table: Table, group: str | None) -> list[str]:
    """What is wrong in the paper's table, or in its text about it, for a group."""
    there = [] if table.paper is None else [table.paper, f"{table.paper}{TEXT}"]
    return [f"{slip.row}: {slip.reason}" for slip in slips() if slip.table in there and slip.group == group]


def says_of(line: Line, of: str | None) -> bool:
    """Whether a line has a score of masks, or of classes; of either for None."""
    return any(score.name in line.scores and of in (None, score.of) for score in SCORES)


def text_of(row: Row) -> str:
    """A stand-in is called one."""
    return f"{row.text} ({STAND_IN} {', '.join(row.stands_for)})" if row.stands_for else row.text


def answers_of_row(grid: Grid, dataset: str, row: Row, output: Path) -> list[CellAnswers]:
    folders = [cell_folder(output, Cell(dataset, row.key, seed)) for seed in grid.seeds]
    return [CellAnswers.read(folder) for folder in folders if (folder / RECORD).is_file()]


def line_of(
    grid: Grid,
    table: Table,
    dataset: str,
    row: Row,
    answers: Sequence[CellAnswers],
    output: Path,
    bootstrap: Bootstrap,
) -> Line:
    printed = rows_of(table.paper, grid.settings["datasets"][dataset].get("paper")) if table.paper else {}
    kind = "ours" if grid.settings["models"][row.model].get("ours") else "rival"
    paper = printed.get(row.paper, {}) if row.paper else {}
    milliseconds = read_times(output).get(name_of(dataset, row.key))
    return Line(
        text_of(row), kind, answers, scores_of_seeds(answers, bootstrap), paper=paper, milliseconds=milliseconds
    )


def scores_of_seeds(answers: Sequence[CellAnswers], bootstrap: Bootstrap) -> dict[str, SeedMean]:
    functions = [row_score_functions(answer.rows, answer.classes) for answer in answers]
    names = [name for name in functions[0] if all(name in one for one in functions)]
    return {name: seed_mean([one[name] for one in functions], answers[0].cases, bootstrap) for name in names}


def baseline_lines(
    table: Table, dataset: str, reference: Sequence[CellAnswers], output: Path, bootstrap: Bootstrap
) -> list[Line]:
    """Those that were run, and the labels that the reference's masks tell."""
    lines = []
    if reference and (derived := [labels_from_masks(answer) for answer in reference])[0] is not None:
        lines.append(Line("labels read off its masks", "baseline", derived, scores_of_seeds(derived, bootstrap)))
    for name, text in TEXTS.items():
        folder = baseline_folder(output, dataset, name)
        if (folder / RECORD).is_file():
            answers = [CellAnswers.read(folder)]
            lines.append(Line(text, "baseline", answers, scores_of_seeds(answers, bootstrap)))
    return lines


def labels_from_masks(answer: CellAnswers) -> CellAnswers | None:
    """A class is said to be present where a pixel of it is predicted, and the surer the more there are; None where the image-level
    classes are not those of the masks."""
    names, rows = answer.classes.labels, answer.rows
    if rows.counts is None or rows.probabilities is None or not set(names) <= set(answer.classes.masks[1:]):
        return None
    columns = [answer.classes.masks.index(name) for name in names]
    area = (rows.counts.tp + rows.counts.fp)[:, columns].astype(np.float64)
    labels = replace(rows, counts=None, probabilities=area / (area + 1))
    classes = replace(answer.classes, thresholds=None if answer.classes.thresholds is None else (0.5,) * len(names))
    return CellAnswers(labels, classes, answer.names, {})


def check_same_cases(answers: Sequence[CellAnswers]) -> None:
    """Raises `BadInputError` where two cells were tested on other rows."""
    for answer in answers:
        if answer.names != answers[0].names:
            cells = [one.record.get("cell") for one in (answers[0], answer)]
            raise BadInputError(
                f"{cells[0]} and {cells[1]} were tested on other images; expected one dataset for all cells"
            )


def compared(lines: Sequence[Line], reference: str, bootstrap: Bootstrap) -> list[Line]:
    """The lines with their differences to one of them, corrected over all others for each score."""
    base = next((line for line in lines if line.text == reference), None)
    if base is None:
        return list(lines)
    found: dict[str, dict[str, Difference]] = {}
    for line in lines:
        if line is not base:
            for name in line.scores.keys() & base.scores.keys():
                found.setdefault(name, {})[line.text] = difference(line.scores[name], base.scores[name], bootstrap)
    corrected = {name: holm({text: one.p for text, one in of.items()}) for name, of in found.items()}
    return [
        replace(
            line,
            differences={
                n: replace(of[line.text], p=corrected[n][line.text]) for n, of in found.items() if line.text in of
            },
            raw_p={name: of[line.text].p for name, of in found.items() if line.text in of},
        )
        for line in lines
    ]


def published_lines(grid: Grid, table: Table, dataset: str) -> list[Line]:
    """Every row of the paper's table that no row here is, with its printed figures."""
    if table.paper is None:
        return []
    group, own = grid.settings["datasets"][dataset].get("paper"), {row.paper for row in table.rows}
    return [
        Line(f"{name}, as published, another protocol", "published", paper=values)
        for name, values in rows_of(table.paper, group).items()
        if name not in own
    ]
