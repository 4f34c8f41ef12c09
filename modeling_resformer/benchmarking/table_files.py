"""Tables of a grid as Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..metrics.score_table import MAIN_SCORES, SCORES, ScoreEntry
from .paper import PRINTED
from .table_lines import LEVEL, Line, Part, value_of


PAPERS_NAMES = {name: short for short, name in PRINTED.items()}
SHOWN = [score for score in SCORES if score.name in PRINTED.values() or score.name in MAIN_SCORES]
GIB = 2**30
BETWEEN = " to "


@dataclass(frozen=True)
class Markup:
    """How a format marks figures.

    Attributes:
        best, second: around the figure of the best line and the one behind it.
        spread: before a standard deviation.
        text: what a name becomes.
    """

    best: Callable[[str], str]
    second: Callable[[str], str]
    spread: str
    text: Callable[[str], str]


def latex_text(text: str) -> str:
    for sign in "\\&%_#":
        text = text.replace(sign, "\\textbackslash{}" if sign == "\\" else f"\\{sign}")
    return text.replace("±", r"$\pm$")


MARKDOWN = Markup("**{}**".format, "<u>{}</u>".format, " ± ", lambda text: text.replace("|", "/"))
LATEX = Markup(r"\textbf{{{}}}".format, r"\underline{{{}}}".format, r" $\pm$ ", latex_text)


def shown_scores(part: Part) -> list[ScoreEntry]:
    """Those that the paper prints and the main ones, as far as any line has them."""
    names = {name for line in part.lines for name in (*line.scores, *line.paper)}
    return [score for score in SHOWN if score.name in names and part.table.of in (None, score.of)]


def cells_of_line(part: Part, line: Line, markup: Markup) -> list[str]:
    """One line of a table, a string a column."""
    scores = [score_cell(part, line, score.name, markup) for score in shown_scores(part)]
    printed = [f"{line.paper[name]:.1f}" for name in papers_names(part) if name in line.paper]
    costs = [costs_of_line(line)[title] for title in cost_titles(part)]
    seeds = str(len(line.answers)) if line.kind in ("ours", "rival") else ""
    return [markup.text(line.text), seeds, *scores, *([" / ".join(printed)] if papers_names(part) else []), *costs]


def costs_of_line(line: Line) -> dict[str, str]:
    """By the title of the column; empty where it is not known."""
    cost, minutes = line.cost, line.cpu_minutes
    return {
        "M parameters": f"{cost['parameters'] / 1e6:.2f}" if cost else "",
        "GMAC": f"{cost['gmac']:.2f}" if cost else "",
        "ms an image": f"{cost['milliseconds']:.0f}" if cost else "",
        "GiB to train": f"{cost['memory'] / GIB:.1f}" if cost.get("memory") else "",
        "CPU minutes": "" if minutes is None else f"{minutes:.1f}",
    }


def cost_titles(part: Part) -> list[str]:
    """Of the columns that any line fills; a rehearsal measures no memory."""
    costs = [costs_of_line(line) for line in part.lines]
    return [title for title in costs[0] if any(one[title] for one in costs)]


def papers_names(part: Part) -> list[str]:
    """Scores that the paper's table prints, in our order."""
    return [score.name for score in SHOWN if any(score.name in line.paper for line in part.lines)]


def header_of(part: Part) -> list[str]:
    paper = papers_names(part)
    names = [f"the paper's {' / '.join(PAPERS_NAMES[name] for name in paper)}"] if paper else []
    scores = [score.column or score.title for score in shown_scores(part)]
    return ["", "seeds", *scores, *names, *cost_titles(part)]


def score_cell(part: Part, line: Line, name: str, markup: Markup) -> str:
    """Mean and standard deviation in per cent, the interval over cases, and a star where it differs from the reference."""
    value = value_of(line, name)
    if math.isnan(value):
        return "-" if line.kind != "published" else ""
    score, ranked = line.scores[name], part.ranked(name)
    figure = f"{100 * value:.1f}"
    figure = {0: markup.best, 1: markup.second}.get(ranked.index(line.text), str)(figure)
    spread = "" if math.isnan(score.std) else f"{markup.spread}{100 * score.std:.1f}"
    interval = "" if math.isnan(score.low) else f" ({100 * score.low:.1f}{BETWEEN}{100 * score.high:.1f})"
    return f"{figure}{spread}{interval}{'*' if is_marked(line, name) else ''}"


def is_marked(line: Line, name: str) -> bool:
    return name in line.differences and line.differences[name].p < LEVEL


def caption_lines(part: Part) -> list[str]:
    """What has to be known to read a table."""
    seeds = max((len(line.answers) for line in part.lines if line.kind in ("ours", "rival")), default=0)
    lines = [
        f"{part.images} test images of {part.cases} case{'' if part.cases == 1 else 's'}, {seeds} seed{'' if seeds == 1 else 's'}; per cent: mean ± standard "
        "deviation over seeds (95 % interval over cases, seeds fixed; none below five cases). Best bold, second underlined. "
        f'* differs from "{part.reference}" (paired bootstrap over cases, Holm over the lines, p < {LEVEL:g}).',
    ]
    if part.missing:
        lines.append(f"Not run: {'; '.join(part.missing)}.")
    return lines + [f"The paper contradicts itself. {slip}." for slip in part.slips]


def table_markdown(part: Part) -> str:
    """A heading, the table, and what is to be said of it."""
    header = header_of(part)
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    rows += [cells_of_line(part, line, MARKDOWN) for line in part.lines]
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## {title_of(part)}\n\n{body}\n\n" + "\n".join(f"{line}\n" for line in caption_lines(part))


def title_of(part: Part) -> str:
    number = f"Table {part.table.paper} of the paper: " if part.table.paper else ""
    title = f"{number}{part.table.title}, {part.text}"
    return title[0].upper() + title[1:]


def table_latex(part: Part) -> str:
    """The same, for the package booktabs."""
    header = header_of(part)
    rows = [[LATEX.text(name) for name in header], *(cells_of_line(part, line, LATEX) for line in part.lines)]
    head, *body = [" & ".join(row) + r" \\" for row in rows]
    columns = f"l{'r' * (len(header) - 1)}"
    lines = [
        r"\begin{table}",
        rf"\caption{{{latex_text(title_of(part))}. {latex_text(' '.join(caption_lines(part)))}}}",
    ]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}"]) + "\n"


CSV_COLUMNS = [
    "table",
    "dataset",
    "row",
    "kind",
    "score",
    "value",
    "std_over_seeds",
    "low",
    "high",
    "seeds",
    "difference_to_reference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "paper_percent",
    "parameters",
    "gmac",
    "milliseconds",
    "memory_bytes",
    "cpu_minutes",
]


def tables_csv(parts: Sequence[Part]) -> str:
    """Every score of every line, in fractions of one; empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for part in parts:
        for line in part.lines:
            for name in dict.fromkeys([*line.scores, *line.paper]):
                writer.writerow(csv_row(part, line, name))
    return text.getvalue()


def csv_row(part: Part, line: Line, name: str) -> dict[str, str | float | int]:
    score, change, cost = line.scores.get(name), line.differences.get(name), line.cost
    row = {
        "table": part.table.name,
        "dataset": part.dataset,
        "row": line.text,
        "kind": line.kind,
        "score": name,
        "seeds": len(line.answers),
        "paper_percent": line.paper.get(name, ""),
        "parameters": cost.get("parameters", ""),
        "gmac": cost.get("gmac", ""),
        "milliseconds": cost.get("milliseconds", ""),
        "memory_bytes": cost.get("memory") or "",
        "cpu_minutes": "" if line.cpu_minutes is None else round(line.cpu_minutes, 2),
    }
    if score is not None:
        row |= {"value": score.value, "std_over_seeds": score.std, "low": score.low, "high": score.high}
    if change is not None:
        row |= {
            "difference_to_reference": change.value,
            "difference_low": change.low,
            "difference_high": change.high,
            "p": line.raw_p[name],
            "p_holm": change.p,
        }
    return {key: "" if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
