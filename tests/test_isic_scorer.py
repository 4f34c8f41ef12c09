"""Agreement with the ISIC challenge's own scorer, `isic-challenge-scoring`.

Its classification half needs a pandas older than the one that comes with scikit-learn and datasets here, so it lives in an
environment of its own, named by the variable ISIC_SCORER; `make test-slow` and `make test-isic-scorer` make it.
"""

import csv
import json
import os
import subprocess

import numpy as np
import pytest
from PIL import Image

from modeling_resformer.metrics.counts import mask_counts
from modeling_resformer.metrics.scores import (
    accuracy,
    classification_scores,
    dice,
    jaccard,
    segmentation_scores,
    sensitivity,
    specificity,
)


pytestmark = pytest.mark.slow

CATEGORIES = ["melanoma", "seborrheic_keratosis", "nevus"]
SCORER = """
import json, pathlib, sys
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore
from isic_challenge_scoring.segmentation import SegmentationScore
folder = pathlib.Path(sys.argv[1])
masks = SegmentationScore.from_dir(folder / "truth", folder / "predicted")
labels = ClassificationScore.from_file(folder / "truth.csv", folder / "predicted.csv", ClassificationMetric.AUC)
print(json.dumps({
    "masks": masks.macro_average.to_dict(),
    "labels": labels.per_category.to_dict(orient="index"),
    "mean_auc": labels.overall,
}))
"""


def isic_scores(folder):
    """What ISIC's scorer makes of truth/, predicted/, truth.csv and predicted.csv in a folder."""
    python = os.environ.get("ISIC_SCORER")
    if not python:
        pytest.fail("ISIC_SCORER must name a Python that has isic-challenge-scoring: run `make test-isic-scorer`")
    command = [python, "-c", SCORER, str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])


def disc(centre, radius, size):
    y, x = np.mgrid[: size[0], : size[1]]
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.int64)


def lesions():
    """Pairs of masks (predicted, true) of different sizes, among them empty ones on either side and on both."""
    rng = np.random.default_rng(0)
    sizes = [tuple(rng.integers(40, 90, 2)) for _ in range(20)]
    pairs = []
    for size in sizes:
        centre, radius = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(5, 20)
        shifted = centre + rng.normal(0, 5, 2)
        pairs.append((disc(shifted, radius * rng.uniform(0.6, 1.4), size), disc(centre, radius, size)))
    nothing = np.zeros((30, 40), dtype=np.int64)
    something = disc((15, 20), 8, (30, 40))
    return [*pairs, (nothing, nothing), (something, nothing), (nothing, something), (something, something)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(mask pairs, probabilities, true labels, ISIC's scores of them)"""
    folder = tmp_path_factory.mktemp("challenge")
    pairs = lesions()
    for number, pair in enumerate(pairs):
        for name, mask in zip(("predicted", "truth"), pair, strict=True):
            (folder / name).mkdir(exist_ok=True)
            image = Image.fromarray((mask * 255).astype(np.uint8))
            image.save(folder / name / f"ISIC_{number:07d}_segmentation.png")
    rng = np.random.default_rng(1)
    true = np.eye(3)[rng.choice(3, 200, p=[0.2, 0.15, 0.65])]
    probabilities = np.clip(0.35 * true + 0.65 * rng.random((200, 3)), 0, 1).round(3)
    probabilities[probabilities == 0.5] = 0.501  # ISIC decides above one half, we at one half as well
    for name, values in (("truth", true), ("predicted", probabilities)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", *CATEGORIES])
            writer.writerows([f"ISIC_{i:07d}", *row] for i, row in enumerate(values.tolist()))
    return pairs, probabilities, true, isic_scores(folder)


def test_dice_and_jaccard_are_those_of_the_challenge(both):
    pairs, _, _, theirs = both
    counts = [mask_counts(predicted[None], true[None], 2) for predicted, true in pairs]
    joined = type(counts[0])(*map(np.concatenate, zip(*counts, strict=True)))
    ours = segmentation_scores(joined, np.arange(len(pairs)), ["background", "lesion"])
    assert ours["dice"].value == pytest.approx(theirs["masks"]["dice"], abs=1e-12)
    assert ours["jaccard"].value == pytest.approx(theirs["masks"]["jaccard"], abs=1e-12)
    # The challenge's threshold Jaccard, from our values per image.
    values = jaccard(joined)[:, 1]
    assert np.where(values >= 0.65, values, 0).mean() == pytest.approx(theirs["masks"]["threshold_jaccard"])
    assert dice(joined)[-4:, 1].tolist() == [1, 0, 0, 1]


def test_pixel_scores_are_those_of_the_challenge(both):
    """Where nothing is to be found the challenge gives a sensitivity of 1; here it is undefined."""
    pairs, _, _, theirs = both
    counts = [mask_counts(predicted[None], true[None], 2) for predicted, true in pairs]
    joined = type(counts[0])(*map(np.concatenate, zip(*counts, strict=True)))
    for score in (accuracy, sensitivity, specificity):
        values = np.nan_to_num(score(joined)[:, 1], nan=1.0)
        assert values.mean() == pytest.approx(theirs["masks"][score.__name__], abs=1e-12)


def test_image_level_scores_are_those_of_the_challenge(both):
    _, probabilities, true, theirs = both
    ours = classification_scores(
        probabilities, true, np.arange(len(true)), CATEGORIES, auc_classes=["melanoma", "seborrheic_keratosis"]
    )
    for category, scores in theirs["labels"].items():
        for name in ("auc", "accuracy", "sensitivity", "specificity"):
            assert ours[f"{name}_{category}"].value == pytest.approx(scores[name], abs=1e-12)
    assert ours["auc"].value == pytest.approx(theirs["mean_auc"], abs=1e-12)
    part3 = np.mean([theirs["labels"][name]["auc"] for name in ("melanoma", "seborrheic_keratosis")])
    assert ours["auc_melanoma+seborrheic_keratosis"].value == pytest.approx(part3, abs=1e-12)
