"""What the paper does not ask, from the same cells: conventions side by side, absent lesions, lesion size, agreement of the heads."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.score_table import SCORES
from ..metrics.scores import dice
from .grid import SHARE
from .table_lines import CellAnswers, Line, Part, value_of


SIZE_BINS = 4  # quarters of the images by the size of what they show
FEW_IMAGES = 3  # of a quarter, below which it has no mean


@dataclass(frozen=True)
class Agreement:
    """Of what the masks show of a class and what is decided of the image, over all images and classes.

    Attributes:
        share: that agree.
        kappa: of Cohen (1960), what of it chance does not explain; NaN where one of both never changes.
        n: images times classes.
    """

    share: float
    kappa: float
    n: int


def trained_lines(parts: Sequence[Part]) -> dict[str, dict[str, Line]]:
    """Every trained line once, by the text of its dataset and that which it has in the first table."""
    found: dict[str, dict[str, Line]] = {}
    seen = set()
    for part in parts:
        for line in part.lines:
            trained = line.kind in ("ours", "rival") and f"/{SHARE}" not in key_of(line)
            if trained and (part.text, key_of(line)) not in seen:
                seen.add((part.text, key_of(line)))
                found.setdefault(part.text, {})[line.text] = line
    return found


def key_of(line: Line) -> str:
    return line.answers[0].record["cell"]["row"]


def dice_by_size(answers: Sequence[CellAnswers]) -> tuple[np.ndarray, np.ndarray]:
    """Mean Dice of the images in every quarter by size, and the median size of each.

    Size is the true share of the image's pixels; images and foreground classes that the truth holds are counted, those of all
    seeds together.

    Returns:
        (`SIZE_BINS`,) means, NaN for quarters of fewer than three images, and (`SIZE_BINS`,) sizes.
    """
    sizes, values = [], []
    for answer in answers:
        counts = answer.rows.counts
        true = (counts.tp + counts.fn)[:, 1:]
        there = true > 0
        sizes.append((true / np.maximum(counts.annotated[:, 1:], 1))[there])
        values.append(dice(counts)[:, 1:][there])
    size, value = np.concatenate(sizes), np.concatenate(values)
    if not len(size):
        return np.full(SIZE_BINS, np.nan), np.full(SIZE_BINS, np.nan)
    edges = np.quantile(sizes[0], np.linspace(0, 1, SIZE_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, size, side="left")
    inside = [bins == index for index in range(SIZE_BINS)]
    means = [value[one].mean() if one.sum() >= FEW_IMAGES * len(answers) else np.nan for one in inside]
    return np.array(means), np.array([np.median(size[one]) if one.any() else np.nan for one in inside])


def agreement_of_heads(answers: Sequence[CellAnswers]) -> Agreement | None:
    """How often both heads say the same of a class; None where the image-level classes are not those of the masks."""
    seen, said = [], []
    for answer in answers:
        rows, names = answer.rows, answer.classes.labels
        if rows.counts is None or rows.probabilities is None or not set(names) <= set(answer.classes.masks[1:]):
            return None
        columns = [answer.classes.masks.index(name) for name in names]
        seen.append(((rows.counts.tp + rows.counts.fp) > 0)[:, columns].ravel())
        said.append(answer.classes.decided(rows.probabilities).ravel())
    masks, labels = np.concatenate(seen), np.concatenate(said)
    share = float((masks == labels).mean())
    chance = float(masks.mean() * labels.mean() + (1 - masks.mean()) * (1 - labels.mean()))
    return Agreement(share, (share - chance) / (1 - chance) if chance < 1 else math.nan, len(masks))


def shares_of_masks(part: Part) -> dict[str, list[tuple[float, Line]]]:
    """Of every model of the table of shares: share of the masks and line, ascending."""
    found: dict[str, list[tuple[float, Line]]] = {}
    for line in part.lines:
        if line.answers and line.kind in ("ours", "rival"):
            model, _, variant = key_of(line).partition("/")
            share = float(variant.removeprefix(SHARE)) / 100 if variant.startswith(SHARE) else 1.0
            found.setdefault(model, []).append((share, line))
    return {model: sorted(lines, key=lambda one: one[0]) for model, lines in found.items()}


def analyses_markdown(parts: Sequence[Part]) -> str:
    """All of them, a table for each dataset."""
    sections: list[tuple[str, str, Callable[[Mapping[str, Line]], list[list[str]]]]] = [
        ("Every convention side by side", "The same masks and decisions, per cent; mm³ as they are.", conventions),
        (
            "Images without the lesion",
            "Share of the images without a class in which any pixel of it is predicted, per cent; n images.",
            absent_lesions,
        ),
        (
            "Dice against the size of the lesion",
            "Quarters of the images by the true size, the smallest first, with the median share of the image; per cent.",
            sizes,
        ),
        (
            "Agreement of the heads",
            "A class is in the mask exactly where it is decided for; Cohen's kappa.",
            agreements,
        ),
    ]
    text = ["# Analyses\n"]
    for title, explained, rows_of_section in sections:
        text.append(f"## {title}\n\n{explained}\n")
        before = len(text)
        for dataset, lines in trained_lines(parts).items():
            rows = rows_of_section(lines)
            if len(rows) > 1:
                rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
                text.append(f"**{dataset}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
        if len(text) == before:
            text.append("Nothing in these data tells of it.\n")
    return "\n".join(text)


def conventions(lines: Mapping[str, Line]) -> list[list[str]]:
    names = [score for score in SCORES if any(score.name in line.scores for line in lines.values())]
    rows = [["", *(score.name for score in names)]]
    return rows + [[text, *(percent(value_of(line, score.name)) for score in names)] for text, line in lines.items()]


def absent_lesions(lines: Mapping[str, Line]) -> list[list[str]]:
    rows = [["", "rate", "n"]]
    for text, line in lines.items():
        numbers = [n for answer in line.answers for n in absent_images(answer)]
        if sum(numbers):
            rows.append(
                [text, percent(value_of(line, "false_positive_rate_empty")), str(sum(numbers) // len(line.answers))]
            )
    return rows


def absent_images(answer: CellAnswers) -> Iterator[int]:
    """Of every foreground class the number of annotated images without it."""
    if (counts := answer.rows.counts) is not None:
        yield from ((counts.annotated > 0) & (counts.tp + counts.fn == 0))[:, 1:].sum(axis=0).tolist()


def sizes(lines: Mapping[str, Line]) -> list[list[str]]:
    segmenting = {text: line for text, line in lines.items() if line.answers[0].rows.counts is not None}
    rows: list[list[str]] = []
    for text, line in segmenting.items():
        means, medians = dice_by_size(line.answers)
        if not rows:
            rows.append(["", *(f"{percent(size)} % of the image" for size in medians)])
        rows.append([text, *(percent(value) for value in means)])
    return rows or [[""]]


def agreements(lines: Mapping[str, Line]) -> list[list[str]]:
    rows = [["", "agree, per cent", "kappa", "n"]]
    for text, line in lines.items():
        if (found := agreement_of_heads(line.answers)) is not None:
            kappa = "-" if math.isnan(found.kappa) else f"{found.kappa:.2f}"
            rows.append([text, percent(found.share), kappa, str(found.n)])
    return rows


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
