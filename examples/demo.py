"""The main job, start to end, on sixty real photographs: what `make demo` runs.

First the model of `hub_cards/resformer-lite-isic2017`, which was trained longer, predicts photographs it never saw. Then:
Prepare the sample as an Arrow dataset, train a tiny model on the CPU, evaluate it on photographs it never saw beside
trivial baselines, save it, load it in new processes, predict three photographs and draw them.
"""

import argparse
import csv
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "isic2017_sample"
READY = ROOT / "hub_cards" / "resformer-lite-isic2017"  # from a longer training
IMAGE_SIZE = 128

logger = logging.getLogger("demo")


def run(title: str, *command: str | Path) -> None:
    """Runs one of the project's scripts in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why.
    """
    shown = " ".join(
        str(Path(part).relative_to(ROOT) if Path(part).is_relative_to(ROOT) else part) for part in command
    )
    logger.info("\n== %s\n   python %s", title, shown)
    start = time.monotonic()
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)
    logger.info("   %.0f s", time.monotonic() - start)


def test_photographs(count: int) -> list[Path]:
    """The first photographs of the test split, one per diagnosis as far as they go."""
    with open(SAMPLE / "split.csv", newline="") as file:
        test = {row["case_id"] for row in csv.DictReader(file) if row["split"] == "test"}
    with open(SAMPLE / "ISIC-2017_Training_Part3_GroundTruth.csv", newline="") as file:
        diagnoses = {
            row["image_id"]: (float(row["melanoma"]), float(row["seborrheic_keratosis"]))
            for row in csv.DictReader(file)
        }
    first_of_each = {diagnoses[case_id]: case_id for case_id in sorted(test, reverse=True)}
    chosen = sorted(first_of_each.values())[:count]
    return [SAMPLE / "ISIC-2017_Training_Data" / f"{case_id}.jpg" for case_id in chosen]


def demo(output: Path) -> None:
    dataset, trained, predictions = output / "dataset", output / "model", output / "predictions"
    ready_predictions = output / "ready_predictions"
    for folder in (dataset, trained, predictions, ready_predictions):
        shutil.rmtree(folder, ignore_errors=True)
    if READY.is_dir():
        run(
            "Predict with the model that comes along; it was not trained on these photographs",
            *("scripts/predict.py", READY, READY / "examples", "--output", ready_predictions),
        )
    run(
        "Prepare sixty real photographs",
        "scripts/prepare_isic2017.py",
        *("--source", SAMPLE, "--splits", SAMPLE / "split.csv"),
        *("--image-size", str(IMAGE_SIZE), "--output", dataset),
    )
    run(
        "Train a tiny ResFormer, and evaluate it on photographs it never saw",
        *("scripts/train.py", "scripts/recipes/tiny_cpu.json"),
        *("--dataset", dataset, "--output_dir", trained),
    )
    run(
        "Load it in a new process and predict three of them",
        *("scripts/predict.py", trained, *test_photographs(3), "--output", predictions),
    )
    look_at(
        *((("ready", ready_predictions / "sheet.png"),) if READY.is_dir() else ()),
        ("overlays", predictions / "sheet.png"),
        ("scores", predictions / "predictions.csv"),
        ("results", trained / "results.json"),
        ("dataset", dataset / "contact_sheet.png"),
        ("model", trained),
    )


def look_at(*files: tuple[str, Path]) -> None:
    """Says what was written, each file with a word before it."""
    logger.info("\n== Look at")
    for label, path in files:
        logger.info("   %-9s %s", label, path)


def timed(steps: Callable[[], None]) -> int:
    """Takes the steps of a demo and says how long they took; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    start = time.monotonic()
    try:
        steps()
    except subprocess.CalledProcessError as error:
        return error.returncode
    logger.info("\nThe whole demo took %.0f s.", time.monotonic() - start)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "demo", help="folder to write")
    output = parser.parse_args(argv).output.resolve()
    return timed(lambda: demo(output))


if __name__ == "__main__":
    sys.exit(main())
