"""`robustness.json` and `robustness.png`: scores on a split whose images are spoilt, by kind and strength.

    {"split": "test", "images": 300, "scores": {"none": {"0": {"dice": 0.89, ...}}, "noise": {"1": {...}, ...}, ...}}

Written after every evaluation, so that a run that was stopped goes on; `key` tells whether it is the same model and data.
"""

import json
import logging
from pathlib import Path
from typing import Any

import datasets

from ..data.rows import EvaluationRows
from ..evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from ..exporting.weights import weights_digest
from ..files import whole_file, write_whole
from ..metrics.score_table import MAIN_SCORES
from .trainer import ResFormerTrainer


FILE_NAME, PICTURE_NAME = "robustness.json", "robustness.png"

logger = logging.getLogger(__name__)


class CorruptedRows(EvaluationRows):
    """Rows whose images are spoilt in one way; masks and labels stay.

    Args:
        rows: of a split.
        kind: a key of `CORRUPTIONS`.
        strength: 1 to 5.
    """

    def __init__(self, rows: datasets.Dataset, kind: str, strength: int) -> None:
        super().__init__(rows)
        self.kind, self.strength = kind, strength

    def __getitem__(self, row_index: int) -> dict[str, Any]:
        row = super().__getitem__(row_index)
        return {**row, "image": corrupted(row["image"], self.kind, self.strength, (row_index, self.strength))}


def measure_robustness(trainer: ResFormerTrainer, rows: datasets.Dataset, split: str, output: Path) -> None:
    """Evaluates a model on spoilt images, and writes what came of it.

    Args:
        trainer: its `compute_metrics` is an `EvaluationMetrics`.
        rows: of the split, with 8-bit images.
        split: its name.
        output: folder of both files.
    """
    path, main = output / FILE_NAME, trainer.is_world_process_zero()
    key = [weights_digest(trainer.accelerator.unwrap_model(trainer.model)), rows._fingerprint]
    # How images are resized and masks cleaned may be given by flags; where the processor's code lies is of no matter.
    settings = json.loads(trainer.processing_class.to_json_string())
    key.append({name: value for name, value in settings.items() if name != "auto_map"})
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if found.get("key") != key:
        found = {"key": key, "split": split, "images": len(rows), "scores": {}}
    steps = [("none", 0), *((kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS)]
    for number, (kind, strength) in enumerate(steps, start=1):
        if str(strength) in found["scores"].get(kind, {}):
            continue
        spoilt = EvaluationRows(rows) if kind == "none" else CorruptedRows(rows, kind, strength)
        scores = trainer.evaluate(spoilt, metric_key_prefix=split)
        kept = {name: scores[f"{split}_{name}"] for name in MAIN_SCORES if f"{split}_{name}" in scores}
        found["scores"].setdefault(kind, {})[str(strength)] = kept
        told = ", ".join(f"{name} {value:.3f}" for name, value in kept.items())
        logger.info("%d of %d: %s, strength %d: %s", number, len(steps), kind, strength, told)
        if main:
            write_whole(path, json.dumps(found, indent=2) + "\n")
    if main:
        draw_robustness(found, output / PICTURE_NAME)


def draw_robustness(found: dict[str, Any], path: Path) -> None:
    """One panel a score, one line a kind of spoiling, against its strength."""
    from matplotlib.figure import Figure

    names = list(found["scores"]["none"]["0"])
    figure = Figure(figsize=(4.2 * len(names), 3.6), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for kind in CORRUPTIONS:
            by_strength = {"0": found["scores"]["none"]["0"], **found["scores"][kind]}
            axes.plot([0, *STRENGTHS], [by_strength[str(s)][name] for s in (0, *STRENGTHS)], marker=".", label=kind)
        axes.set(title=name, xlabel="strength", ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle(f"{found['images']} {found['split']} images, spoilt")
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=110, format="png")
