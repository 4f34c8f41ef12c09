"""The OCT half, start to end, on a PHANTOM of RETOUCH: what `make demo-oct` runs.

Draw volumes of three vendors with fluids of known mm3, prepare them as RETOUCH is prepared, train around a pretrained
backbone, evaluate by vendor, predict whole volumes and compare their mm3 with the truth. It is the rehearsal with which an
owner of RETOUCH checks a set-up before days on a GPU: **figures on a phantom say nothing about patients.**

Flags that are not listed below go to `scripts/train.py`, as `--max_steps 100`.
"""

import argparse
import csv
import json
import logging
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo import ROOT, look_at, run, timed
from oct_phantom import FLUIDS, VENDORS, write_table
from PIL import Image


RECIPE = ROOT / "scripts" / "recipes" / "oct_phantom.json"
TITLE = "OCT PHANTOM, no patients"
MARKS = {"Cirrus": "o", "Spectralis": "s", "Topcon": "^"}

logger = logging.getLogger("demo")


@dataclass(frozen=True)
class Comparison:
    """One fluid in one volume, in mm3."""

    case_id: str
    vendor: str
    fluid: str
    truth: float
    predicted: float

    @property
    def difference(self) -> float:
        return self.predicted - self.truth


def demo_oct(output: Path, phantom_flags: Sequence[str], train_flags: Sequence[str]) -> None:
    phantom, dataset, trained, predictions = (output / name for name in ("phantom", "dataset", "model", "predictions"))
    for folder in (phantom, dataset, trained, predictions):
        shutil.rmtree(folder, ignore_errors=True)
    run(
        "Draw the phantom: three vendors in the layout of RETOUCH, fluids of known mm3",
        *("examples/oct_phantom.py", "--output", phantom, *phantom_flags),
    )
    run(
        "Prepare it as RETOUCH is prepared",
        *("scripts/prepare_retouch.py", "--source", phantom, "--splits", phantom / "splits.csv", "--output", dataset),
    )
    run(
        "Train a ResFormer around a pretrained backbone, and evaluate it by vendor",
        *("scripts/train.py", RECIPE, "--dataset", dataset, "--output_dir", trained, *train_flags),
    )
    truth = [row for row in read_table(phantom / "truth.csv") if row["split"] == "test"]
    volumes = {row["case_id"]: next(phantom.glob(f"*/{row['case_id']}/oct.mhd")) for row in truth}
    run(
        "Predict the whole volumes of the test split",
        *("scripts/predict.py", "--model", trained, *volumes.values(), "--output", predictions),
    )
    compared = compare(truth, read_table(predictions / "volumes.csv"))
    write_comparison(compared, output / "mm3.csv")
    draw_comparison(compared, output / "mm3.png")
    fullest = max(truth, key=lambda row: sum(float(row[f"{fluid}_mm3"]) for fluid in FLUIDS))["case_id"]
    draw_from_the_front(volumes[fullest], predictions, output / "en_face.png")
    results = json.loads((trained / "results.json").read_text())
    logger.info("\n== %s: test split by vendor, and mm3 against the truth", TITLE)
    for line in (*vendor_lines(results), "", *volume_lines(compared)):
        logger.info("   %s", line)
    look_at(
        ("mm3", output / "mm3.png"),
        ("en face", output / "en_face.png"),
        ("slices", predictions / "overlays"),
        ("volumes", output / "mm3.csv"),
        ("results", trained / "results.json"),
        ("dataset", dataset / "contact_sheet.png"),
    )


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def compare(truth: Iterable[dict[str, str]], predicted: Iterable[dict[str, str]]) -> list[Comparison]:
    """Every fluid of every volume, `truth.csv` beside `volumes.csv`.

    Raises:
        KeyError: a volume was not predicted.
    """
    found = {row["case_id"]: row for row in predicted}
    return [
        Comparison(
            row["case_id"],
            row["vendor"],
            fluid,
            float(row[f"{fluid}_mm3"]),
            float(found[row["case_id"]][f"volume_mm3_{fluid}"]),
        )
        for row in truth
        for fluid in FLUIDS
    ]


def write_comparison(compared: Iterable[Comparison], path: Path) -> None:
    rows = [
        {
            "case_id": one.case_id,
            "vendor": one.vendor,
            "fluid": one.fluid,
            "truth_mm3": f"{one.truth:.6g}",
            "predicted_mm3": f"{one.predicted:.6g}",
            "difference_mm3": f"{one.difference:.6g}",
        }
        for one in compared
    ]
    write_table(path, rows)


def vendor_lines(results: dict[str, Any]) -> list[str]:
    """Scores of each vendor from `results.json`, those that the data define."""
    lines = [f"{'vendor':<12}{'images':>7}{'volumes':>9}" + "".join(f"{f'dice_volume {name}':>18}" for name in FLUIDS)]
    for vendor, group in results["groups"].items():
        scores = [group["model"].get(f"dice_volume_{name}", {}) for name in FLUIDS]
        shown = ["-" if not score.get("n") else f"{score['value']:.3f}" for score in scores]
        lines.append(f"{vendor:<12}{group['images']:>7}{group['cases']:>9}" + "".join(f"{text:>18}" for text in shown))
    return lines


def volume_lines(compared: Sequence[Comparison]) -> list[str]:
    """Mean absolute difference of each vendor and fluid, beside that of a model that finds nothing."""
    lines = [
        f"{'vendor':<12}{'fluid':<7}{'volumes':>8}{'truth':>9}{'predicted':>11}{'off by':>9}{'nothing found':>15}"
    ]
    for vendor in (vendor.name for vendor in VENDORS):
        for fluid in FLUIDS:
            part = [one for one in compared if (one.vendor, one.fluid) == (vendor, fluid)]
            means = (
                np.mean([values(one) for one in part])
                for values in (lambda one: one.truth, lambda one: one.predicted, lambda one: abs(one.difference))
            )
            truth, predicted, off = map(float, means)
            lines.append(
                f"{vendor:<12}{fluid:<7}{len(part):>8}{truth:>9.3f}{predicted:>11.3f}{off:>9.3f}{truth:>15.3f}"
            )
    lines.append("mm3, means over the volumes; 'off by' without sign, 'nothing found' for a model that finds no fluid")
    return lines


def draw_comparison(compared: Sequence[Comparison], path: Path) -> None:
    """A panel for each fluid: predicted over true mm3, a mark for each volume, and the line on which both are the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{TITLE}: mm³ of fluid in the volumes of the test split")
    for panel, fluid in zip(figure.subplots(1, len(FLUIDS)), FLUIDS, strict=True):
        shown = [one for one in compared if one.fluid == fluid]
        end = 1.08 * max(max(one.truth, one.predicted) for one in shown) or 1.0
        panel.plot([0, end], [0, end], color="0.7", linewidth=1, zorder=1)
        for vendor, mark in MARKS.items():
            part = [one for one in shown if one.vendor == vendor]
            panel.scatter(
                [one.truth for one in part], [one.predicted for one in part], marker=mark, s=48, label=vendor
            )
        panel.set(title=fluid, xlabel="true (mm³)", ylabel="predicted (mm³)", aspect="equal")
        panel.set(xlim=(-0.03 * end, end), ylim=(-0.03 * end, end))
    panel.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def draw_from_the_front(volume: Path, predictions: Path, path: Path) -> None:
    """The true thickness maps of one volume above the predicted ones."""
    from modeling_resformer.prediction.en_face import draw_en_face
    from modeling_resformer.volumes.metaimage import read_volume

    reference = read_volume(volume.with_name("reference.mhd"))
    case_id = volume.parent.name
    mask = read_volume(predictions / "masks" / f"{case_id}.mha")
    names = ["background", *FLUIDS]
    maps = [
        draw_en_face(one.voxels, names, reference.header.spacing, f"{case_id} ({TITLE}): {what}")
        for one, what in ((reference, "truth"), (mask, "predicted"))
    ]
    sheet = Image.new("RGB", (maps[0].width, sum(one.height for one in maps)), "white")
    sheet.paste(maps[0], (0, 0))
    sheet.paste(maps[1], (0, maps[0].height))
    sheet.save(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "outputs" / "demo_oct", help="folder to write")
    add("--volumes-per-vendor", default="9", help="of examples/oct_phantom.py (default: 9)")
    add("--slices", default="16", help="B-scans a volume (default: 16)")
    given, train_flags = parser.parse_known_args(argv)
    phantom_flags = ["--volumes-per-vendor", given.volumes_per_vendor, "--slices", given.slices]
    return timed(lambda: demo_oct(given.output.resolve(), phantom_flags, train_flags))


if __name__ == "__main__":
    sys.exit(main())
