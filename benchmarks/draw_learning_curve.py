"""Draws losses and scores over the epochs: python benchmarks/draw_learning_curve.py benchmarks/isic2017_small_cpu"""

import json
import sys
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt


PANELS = {
    "segmentation loss": {"training": "segmentation_loss", "validation": "eval_segmentation_loss"},
    "classification loss": {"training": "classification_loss", "validation": "eval_classification_loss"},
    "validation scores": {"dice": "eval_dice", "jaccard": "eval_jaccard", "AUC": "eval_auc"},
}


def main(folder: Path) -> None:
    log = json.loads((folder / "learning_curve.json").read_text())["log"]
    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 3.2))
    for axes, (title, lines) in zip(panels, PANELS.items(), strict=True):
        for name, key in lines.items():
            points = [(entry["epoch"], entry[key]) for entry in log if key in entry]
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "learning_curve.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
