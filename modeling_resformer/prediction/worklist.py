"""`worklist.html`: all cases of a run on one page, the doubtful first, each with a thumbnail, its scores and its report.

Thumbnails are files of a few kilobytes that a browser loads when they come into sight, so that thousands of cases stay light.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .case_report import REPORTS, THUMBNAILS, ModelFacts, flags_of, render_page, trust_told
from .result_tables import ClassNames, Row, printable


WORKLIST = "worklist.html"
LEAST = 1e-7  # of a score in a logarithm

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Order:
    """By what cases are sorted.

    Attributes:
        key: field of a row, or what is made of it.
        said: the sentence on the page.
        head: of the column that shows it.
    """

    key: str
    said: str
    head: str


BY_CONFIDENCE = Order(
    "confidence",
    "Sorted by doubt: flagged cases first, then by the model's confidence, the lowest first.",
    "confidence",
)
BY_CLOSENESS = Order(
    "closeness",
    "This model tells no confidence. Sorted by how close a score lies to its threshold (or the two highest to each other), "
    "in log odds, the closest first.",
    "log odds to threshold",
)
BY_ENTROPY = Order(
    "mask_entropy",
    "This model tells no confidence and has no image-level classes. Sorted by the mean entropy of its mask (0 sure, 1 even), "
    "the highest first.",
    "mask entropy",
)


def worklist_page(records: Sequence[Record], classes: ClassNames, model: ModelFacts, problems: int = 0) -> bytes:
    """The page over finished cases.

    Args:
        records: of the journal; a volume is as doubtful as its most doubtful slice.
        classes: what the model answers.
        model: which it is.
        problems: how many inputs could not be done.
    """
    rows = [row for record in records for row in record["rows"]]
    order = order_of(rows, classes)
    cases = sorted(records, key=lambda record: doubt_rank(record, order, classes))
    total = f"{len(cases)} {'case' if len(cases) == 1 else 'cases'}"
    return render_page(
        "worklist.html",
        total=total,
        order=order.said
        + (" A volume counts as its most doubtful slice." if any("volume" in one for one in cases) else ""),
        classes=[printable(name) for name in classes.image],
        has_doubt=True,
        measure=order.head,
        cases=[work_line(record, order, classes) for record in cases],
        problems=problems,
        model=model,
    )


def order_of(rows: Sequence[Row], classes: ClassNames) -> Order:
    if any(row.get("confidence") is not None or row.get("flags") for row in rows):
        return BY_CONFIDENCE
    return BY_CLOSENESS if classes.image else BY_ENTROPY


def doubt_rank(record: Record, order: Order, classes: ClassNames) -> tuple[bool, float, str]:
    """What sorts the most doubtful first; of equals by name."""
    flagged = any(flags_of(row) for row in record["rows"])
    return not flagged, measured(record, order, classes) * (-1 if order is BY_ENTROPY else 1), record["name"]


def measured(record: Record, order: Order, classes: ClassNames) -> float:
    """The measure of a case, of its most doubtful slice; infinite or 0 where it is not known, which sorts last."""
    if order is BY_ENTROPY:
        return max((row.get(order.key) or 0.0 for row in record["rows"]), default=0.0)
    if order is BY_CLOSENESS:
        return min((closeness(row, classes.image) for row in record["rows"]), default=math.inf)
    return min((row["confidence"] for row in record["rows"] if row.get("confidence") is not None), default=math.inf)


def closeness(row: Row, labels: Sequence[str]) -> float:
    """The least distance of a score to its threshold in log odds, or of the two highest in logarithms, where those exclude
    each other. Infinite with a single one of these."""
    scores = [row[f"score_{label}"] for label in labels]
    thresholds = [row[f"threshold_{label}"] for label in labels]
    if None in thresholds:
        first, second = (*sorted((math.log(max(score, LEAST)) for score in scores), reverse=True), -math.inf)[:2]
        return first - second
    return min(abs(log_odds(score) - log_odds(at)) for score, at in zip(scores, thresholds, strict=True))


def log_odds(probability: float) -> float:
    probability = min(max(probability, LEAST), 1 - LEAST)
    return math.log(probability / (1 - probability))


def work_line(record: Record, order: Order, classes: ClassNames) -> dict[str, Any]:
    """What the page shows of one case."""
    rows, files = record["rows"], record["files"]
    report = next((name for name in files if name.startswith(f"{REPORTS}/")), None)
    drawn = next((name for name in files if name.startswith("overlays/")), None)
    thumbnail = next((name for name in files if name.startswith(f"{THUMBNAILS}/")), None)
    trust = trust_told(rows) or {"flags": [], "doubt": ""}
    value = measured(record, order, classes)
    decided = {label: any(row[f"label_{label}"] for row in rows) for label in classes.image}
    scores = [(f"{max(row[f'score_{label}'] for row in rows):.2f}", decided[label]) for label in classes.image]
    names = [printable(label) for label in classes.image if decided[label]]
    found = [label for label in classes.mask if any(row[f"area_pixels_{label}"] for row in rows)]
    answer = ", ".join(names) or (
        "none of the classes" if classes.image else ", ".join(map(printable, found)) or "nothing"
    )
    return {
        "case_id": printable(record["name"]),
        "link": linked(report or drawn),
        "thumbnail": linked(thumbnail),
        "flags": trust["flags"],
        "doubt": trust["doubt"],
        "answer": answer + (f" ({len(rows)} slices)" if "volume" in record else ""),
        "scores": scores,
        "measured": f"{value:.2f}" if math.isfinite(value) else "-",
    }


def linked(name: str | None) -> str | None:
    return None if name is None else quote(name)
