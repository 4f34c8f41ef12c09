"""Draws docs/data_flow.png, the five hops of docs/architecture.md: python docs/draw_data_flow.py"""

from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch


DATA, OWNER = "white", "#cfe3f5"
# What there is, and who makes the next of it.
STOPS = [
    "files\n.mhd .nii .dcm .tif\n.jpg .png .csv",
    "row\nimage, mask, class_labels\ncase_id, spacing",
    "tensors\npixel_values, mask_labels\nclass_labels, case_index",
    "logits, losses\n(B, S, H, W)\n(B, K)",
    "counts\ntp fp fn tn by row\nprobabilities",
    "scores\nresults.json, per_case.csv\nreport.png, card",
]
HOPS = [
    "1  volumes/\ndata/",
    "2  image_processing_\ndata/collation.py",
    "3  modeling_",
    "4  evaluation/\nmetrics/counts.py",
    "5  metrics/scores.py\nevaluation/ publishing/",
]
STEP, WIDTH = 3.9, 2.9


def draw_stop(axes: plt.Axes, x: float, text: str) -> None:
    title, _, rest = text.partition("\n")
    box = FancyBboxPatch((x - WIDTH / 2, -0.62), WIDTH, 1.24, boxstyle="round,pad=0.04", fc=DATA, ec="#555")
    axes.add_patch(box)
    axes.text(x, 0.36, title, ha="center", va="center", fontsize=10, fontweight="bold")
    axes.text(x, -0.18, rest, ha="center", va="center", fontsize=8)


def draw_hop(axes: plt.Axes, x: float, text: str) -> None:
    axes.annotate(
        "",
        (x + STEP - WIDTH / 2 - 0.06, 0),
        (x + WIDTH / 2 + 0.06, 0),
        arrowprops={"arrowstyle": "-|>", "color": "#444", "lw": 1.4},
    )
    box = {"boxstyle": "round,pad=0.35", "fc": OWNER, "ec": "#555"}
    axes.text(x + STEP / 2, 1.2, text, ha="center", va="center", fontsize=8.5, bbox=box)


def main() -> None:
    figure, rows = plt.subplots(2, 1, figsize=(9.2, 5.0))
    for number, axes in enumerate(rows):
        for place, index in enumerate(range(3 * number, 3 * number + 3)):
            draw_stop(axes, STEP * place, STOPS[index])
            if index < len(HOPS):
                draw_hop(axes, STEP * place, HOPS[index])
        axes.set(xlim=(-1.6, 2 * STEP + 3.4), ylim=(-0.8, 1.7))
        axes.axis("off")
    figure.savefig(Path(__file__).with_name("data_flow.png"), dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
