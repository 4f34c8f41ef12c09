"""Several seeds of one run: mean and standard deviation of every score, and tables ready for a paper.

`seeds.json`:

    {"seeds": [0, 1, 2], "failed": [3], "split": "test", "images": 300, "cases": 300,
     "commits": ["..."], "settings": {...},
     "model": {"dice": {"mean": ..., "std": ..., "n": 3, "values": {"0": ..., "1": ..., "2": ...}}, ...},
     "group_by": "vendor" or null, "groups": {"Cirrus": {"dice": {...}, ...}, ...}}

The standard deviation is that of a sample (n - 1), null for a single seed. A score that some seed leaves undefined is taken
over the others, and `n` says over how many. `settings` are those of `run.json` without the seed.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInputError
from ..metrics.score_table import SCORES, ScoreEntry


# As papers have them: what looks only where a class is comes first.
COLUMNS = sorted((score for score in SCORES if score.column is not None), key=lambda score: not score.where_present)

Summary = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Style:
    """How figures are written: as percentages with some decimals, or as fractions of one with two more."""

    percent: bool = True
    decimals: int = 1


def is_finished(folder: Path) -> bool:
    """Whether a run has come to its end: it writes these two files last."""
    return (folder / "results.json").is_file() and (folder / "run.json").is_file()


def summarise_seeds(runs: Mapping[int, Path], failed: Sequence[int] = ()) -> dict[str, Any]:
    """The content of `seeds.json`.

    Args:
        runs: output folder of every finished run by its seed.
        failed: seeds whose runs did not finish.

    Raises:
        BadInputError: the runs differ in more than their seed, or were evaluated on other images.
    """
    results = {seed: read_of_run(folder / "results.json") for seed, folder in runs.items()}
    records = {seed: read_of_run(folder / "run.json") for seed, folder in runs.items()}
    first = next(iter(runs))
    check_alike(runs, records)
    for seed in runs:
        _check_same_rows(runs, first, seed, results)
    return {
        "seeds": sorted(runs),
        "failed": sorted(failed),
        **{key: results[first][key] for key in ("split", "images", "cases")},
        **spread(results, records),
    }


def spread(results: Mapping[int, Mapping[str, Any]], records: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of every score, of all and by group, and what the runs have in common.

    Args:
        results, records: `results.json` and `run.json` by run.
    """
    first = next(iter(results))
    groups = dict.fromkeys(group for result in results.values() for group in result.get("groups", {}))
    return {
        "commits": sorted({record["code"]["commit"] or "unknown" for record in records.values()}),
        "settings": _settings(records[first]),
        "model": _summary({run: result["model"] for run, result in results.items()}),
        "group_by": results[first].get("group_by"),
        "groups": {
            group: _summary(
                {run: result["groups"][group]["model"] for run, result in results.items() if group in result["groups"]}
            )
            for group in groups
        },
    }


def markdown_tables(summary: Mapping[str, Any], style: Style) -> str:
    """One table for masks and one for image-level classes, a row for every group and class; those that there are."""
    parts = [_caption(summary, style)]
    for header, rows in _tables(summary, style, " ± "):
        lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def latex_tables(summary: Mapping[str, Any], style: Style) -> str:
    """The same for LaTeX, with the package booktabs."""
    parts = [f"% {_caption(summary, style)}"]
    for header, rows in _tables(summary, style, r" \pm "):
        body = [
            rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
            r"\toprule",
            " & ".join(map(_escaped, header)) + r" \\",
            r"\midrule",
            *(" & ".join([*map(_escaped, row[:2]), *(_in_math(cell) for cell in row[2:])]) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        parts.append("\n".join(body))
    return "\n\n".join(parts) + "\n"


def _tables(summary: Mapping[str, Any], style: Style, plus_minus: str) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of both tables, columns without any figure left out."""
    groups: dict[str, Summary] = {"all": summary["model"], **summary["groups"]}
    tables = []
    for of in ("masks", "classes"):
        columns = {score.name: score for score in COLUMNS if score.of == of}
        names = [name for name in columns if any(_known(scores.get(name)) for scores in groups.values())]
        if not names:
            continue
        rows = [
            [
                group,
                class_name,
                *(_cell(scores.get(key), columns[name], style, plus_minus) for name, key in keys.items()),
            ]
            for group, scores in groups.items()
            for class_name, keys in _keys_by_class(summary["model"], names).items()
        ]
        tables.append(([summary["group_by"] or "split", "class", *(columns[name].column for name in names)], rows))
    return tables


def _keys_by_class(model: Summary, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of the mean and of every class: name of the column -> key of the score. Two names may begin alike."""
    first = names[0]
    longer = [score.name for score in SCORES if score.name.startswith(f"{first}_")]
    classes = [
        key.removeprefix(f"{first}_")
        for key in model
        if key.startswith(f"{first}_") and not any(key == name or key.startswith(f"{name}_") for name in longer)
    ]
    classes = [name for name in classes if name != "background" and "+" not in name]
    every = {} if len(classes) == 1 else {"mean": {name: name for name in names}}
    return every | {class_name: {name: f"{name}_{class_name}" for name in names} for class_name in classes}


def _cell(score: Mapping[str, Any] | None, entry: ScoreEntry, style: Style, plus_minus: str) -> str:
    if not _known(score):
        return "-"
    factor, decimals = (100, style.decimals) if style.percent else (1, style.decimals + 2)
    if entry.in_mm3:
        factor, decimals = 1, 3
    figure = f"{score['mean'] * factor:.{decimals}f}"
    return figure if score["std"] is None else f"{figure}{plus_minus}{score['std'] * factor:.{decimals}f}"


def _known(score: Mapping[str, Any] | None) -> bool:
    return score is not None and score["mean"] is not None


def _summary(models: Mapping[int, Summary]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation of every score over the seeds."""
    names = dict.fromkeys(name for model in models.values() for name in model)
    return {name: _mean_and_std({s: m[name]["value"] for s, m in models.items() if name in m}) for name in names}


def _mean_and_std(values: Mapping[int, float | None]) -> dict[str, Any]:
    known = [value for value in values.values() if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
        "values": {str(seed): value for seed, value in values.items()},
    }


def check_alike(runs: Mapping[int, Path], records: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuses runs of other settings, or on other data.

    Args:
        runs: folder by run.
        records: `run.json` by run.

    Raises:
        BadInputError: naming two runs and what differs.
    """
    first = next(iter(runs))
    theirs = _compared(records[first])
    for run, record in records.items():
        ours = _compared(record)
        _refuse(runs, first, run, sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)))


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**_settings(record), "task": record["task"], "dataset": record["dataset"]["fingerprint"]}


def _check_same_rows(
    runs: Mapping[int, Path], first: int, seed: int, results: Mapping[int, Mapping[str, Any]]
) -> None:
    differing = [
        key
        for key in ("split", "images", "cases", "mask_resolution")
        if results[seed].get(key) != results[first].get(key)
    ]
    if list(results[seed].get("groups", {})) != list(results[first].get("groups", {})):
        differing.append("groups")
    _refuse(runs, first, seed, differing)


def _refuse(runs: Mapping[int, Path], first: int, run: int, differing: Sequence[str]) -> None:
    if differing:
        raise BadInputError(
            f"{runs[run]} and {runs[first]} differ in {', '.join(differing)}; expected runs that differ in their seed "
            "or fold only. Give another --output_dir to start over."
        )


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record["settings"].items() if name != "seed"}


def _caption(summary: Mapping[str, Any], style: Style) -> str:
    unit, kind = "percent" if style.percent else "fractions of one", "folds" if "folds" in summary else "seeds"
    failed = f"; failed: {', '.join(map(str, summary['failed']))}" if summary["failed"] else ""
    return (
        f"Mean and standard deviation (n - 1) over {len(summary[kind])} {kind} "
        f"({', '.join(map(str, summary[kind]))}{failed}), {unit}, {summary['images']} {summary['split']} images of "
        f"{summary['cases']} cases."
    )


def _in_math(cell: str) -> str:
    return "--" if cell == "-" else f"${cell}$"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&").replace("mm3", "mm\\textsuperscript{3}")


def read_of_run(path: Path) -> dict[str, Any]:
    """One of the files that a finished run leaves. Raises `BadInputError` where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}); train that one again.") from error
