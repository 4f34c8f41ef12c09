"""Print the table of a grid in Markdown, and draw its learning curves, from the cells that are there.

python benchmarks/isic2017_lite/table.py benchmarks/isic2017_lite/ablation.json --curves curves.png
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any


SCORES = {
    "jaccard": "jaccard",
    "dice": "dice",
    "auc_melanoma+seborrheic_keratosis": "AUC, mean of melanoma and keratosis",
    "segmentation_loss": "mask loss",
    "classification_loss": "class loss",
}


def cells_of(grid: Path) -> dict[str, list[dict[str, Any]]]:
    """Finished cells by row, in the grid's order."""
    rows = json.loads(grid.read_text(encoding="utf-8"))["rows"]
    folder = grid.resolve().parent / "cells"
    paths = {row: sorted(folder.glob(f"{grid.stem}-{row}-[0-9]*.json")) for row in rows}
    return {row: [json.loads(path.read_text(encoding="utf-8")) for path in found] for row, found in paths.items()}


def score(cells: list[dict[str, Any]], name: str) -> str:
    """The mean over seeds, with the lowest and highest where there are several."""
    values = [value for cell in cells if (value := cell["validation"].get(name)) is not None]
    if not values:
        return "-"
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def table(rows: Mapping[str, Mapping[str, Any]], cells: Mapping[str, list[dict[str, Any]]]) -> str:
    """One line a row, those that were not run left out."""
    lines = [
        f"| row | seeds | {' | '.join(SCORES.values())} | parameters | GMAC | CPU minutes |",
        "|---" * (len(SCORES) + 5) + "|",
    ]
    for row, found in cells.items():
        if found:
            scores = " | ".join(score(found, name) for name in SCORES)
            cost = f"{found[0]['parameters'] / 1e6:.2f} M | {found[0]['gmac']:.2f}"
            minutes = " + ".join(f"{cell['cpu_minutes']:.0f}" for cell in found)  # of machines that may differ
            lines.append(f"| {rows[row]['text']} | {len(found)} | {scores} | {cost} | {minutes} |")
    return "\n".join(lines)


def draw_curves(cells: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Validation loss by epoch, one line a cell, one colour a row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for number, (row, found) in enumerate(cells.items()):
        for index, cell in enumerate(found):
            axes.plot(*zip(*cell["curve"], strict=True), color=f"C{number}", label=None if index else row)
    axes.set(xlabel="epoch", ylabel="validation loss")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--curves", type=Path, help="PNG to draw the learning curves to.")
    arguments = parser.parse_args()
    cells = cells_of(arguments.grid)
    print(table(json.loads(arguments.grid.read_text(encoding="utf-8"))["rows"], cells))
    if arguments.curves is not None:
        draw_curves({row: found for row, found in cells.items() if found}, arguments.curves)


if __name__ == "__main__":
    main()
