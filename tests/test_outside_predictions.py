"""scripts/evaluate.py --predictions: other people's masks and scores, scored as a model's are."""

import csv
import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from prepared_data import CLASS_LABELS, MASK_CLASSES, image_row, prepared_dataset

from modeling_resformer.commands.evaluate import main
from modeling_resformer.data.columns import dataset_features
from modeling_resformer.volumes.metaimage import Geometry, write_volume


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(splits, folder)"""
    folder, splits = tmp_path_factory.mktemp("outside"), prepared_dataset(train=3, validation=2, test=8)
    splits.save_to_disk(str(folder / "data"))
    return splits, folder


def predicted(row):
    """The truth a little to the right, and more of it."""
    return np.roll(np.asarray(row["mask"]), 3, axis=1) | np.asarray(row["mask"])


def score(row, name):
    return 0.9 if name in CLASS_LABELS and CLASS_LABELS.index(name) in (row["class_labels"] or []) else 0.25


def write_scores(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "slice_index", *CLASS_LABELS])
        for row in rows:
            writer.writerow([row["case_id"], row["slice_index"], *(score(row, name) for name in CLASS_LABELS)])


def run(data, output, *flags):
    status = main([*flags, "--dataset", str(data), "--output", str(output), "--bootstrap_samples", "0"])
    file = output / "results.json"
    return status, json.loads(file.read_text()) if file.is_file() else None


def by_hand(rows):
    """Mean Dice over the rows with a mask, by its formula."""
    values = []
    for row in rows:
        if row["mask"] is not None:
            true, found = np.asarray(row["mask"]) == 1, predicted(row) == 1
            values.append(2 * (true & found).sum() / (true.sum() + found.sum()))
    return float(np.mean(values))


def test_slices_and_scores_are_found_by_name_and_scored_by_their_formulas(whole, tmp_path):
    splits, folder = whole
    masks = tmp_path / "masks"
    masks.mkdir()
    for row in splits["test"]:
        if row["mask"] is not None:
            name = f"{row['case_id'].upper()}_{row['slice_index']:03d}.png"
            Image.fromarray((predicted(row) * 255).astype(np.uint8)).save(masks / name)
    write_scores(tmp_path / "scores.csv", splits["test"])
    flags = ["--predictions", str(masks), "--scores", str(tmp_path / "scores.csv")]
    status, results = run(folder / "data", tmp_path / "out", *flags)
    assert status == 0
    assert results["model"]["dice"]["value"] == pytest.approx(by_hand(splits["test"]))
    assert results["model"]["accuracy"]["value"] == results["model"]["auc"]["value"] == 1.0
    assert set(results["baselines"]) == {"everything_lesion", "mean_training_mask", "otsu_threshold"}
    assert {"per_case.csv", "report.png", "samples.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_volumes_are_read_slice_by_slice(whole, tmp_path):
    splits, folder = whole
    masks = tmp_path / "masks"
    masks.mkdir()
    for case in set(splits["test"]["case_id"]):
        rows = [row for row in splits["test"] if row["case_id"] == case]
        voxels = np.zeros((2, 40, 48), dtype=np.uint8)
        for row in rows:
            if row["mask"] is not None:
                voxels[row["slice_index"]] = predicted(row)
        write_volume(masks / f"{case}.mha", voxels, Geometry((1.0, 1.0, 1.0)))
    status, results = run(folder / "data", tmp_path / "out", "--predictions", str(masks))
    assert status == 0
    assert results["model"]["dice"]["value"] == pytest.approx(by_hand(splits["test"]))
    assert "auc" not in results["model"]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Folder of a dataset of one image a case, whose names end in digits."""
    folder, rng = tmp_path_factory.mktemp("single"), np.random.default_rng(0)
    rows = [{**image_row(number, rng), "case_id": f"ISIC_00{number}", "slice_index": 0} for number in (0, 1, 3)]
    splits = DatasetDict({"test": Dataset.from_list(rows, features=dataset_features(MASK_CLASSES, CLASS_LABELS))})
    splits.save_to_disk(str(folder))
    return splits, folder


def test_masks_of_another_size_are_resized_and_that_is_said(single, tmp_path, caplog):
    splits, data = single
    for row in splits["test"]:
        large = Image.fromarray(predicted(row).astype(np.uint8)).resize((96, 80), Image.Resampling.NEAREST)
        large.save(tmp_path / f"{row['case_id']}_segmentation.png")
    status, results = run(data, tmp_path / "out", "--predictions", str(tmp_path))
    assert status == 0
    assert results["model"]["dice"]["value"] == pytest.approx(by_hand(splits["test"]))
    assert any("3 predicted masks have another size" in message for message in caplog.messages)


@pytest.mark.parametrize("wrong", ["missing mask", "value", "score", "case", "model", "column", "folder"])
def test_what_means_nothing_ends_in_one_line(single, tmp_path, capsys, wrong):
    splits, data = single
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, row in enumerate(splits["test"]):
        if wrong != "missing mask" or number:
            Image.fromarray(predicted(row).astype(np.uint8) * (7 if wrong == "value" else 1)).save(
                masks / f"{row['case_id']}.png"
            )
    scores = tmp_path / "scores.csv"
    write_scores(scores, list(splits["test"])[1 if wrong == "case" else 0 :])
    if wrong == "score":
        scores.write_text(scores.read_text().replace("0.25", "1.25"))
    if wrong == "column":
        scores.write_text(scores.read_text().replace("brown", "blue"))
    flags = ["--predictions", str(masks if wrong != "folder" else tmp_path / "none"), "--scores", str(scores)]
    flags += ["--model", "org/model"] if wrong == "model" else []
    assert run(data, tmp_path / "out", *flags) == (1, None)
    said = capsys.readouterr().err.splitlines()
    expected = {
        "missing mask": "no mask of case ISIC_000; expected one",
        "value": "mask values 7 are unknown",
        "score": "expected a score from 0 to 1",
        "case": "no row of case ISIC_000",
        "model": "leave --model out",
        "column": "column brown is missing",
        "folder": "no such folder",
    }[wrong]
    assert said[-1].startswith("error: ") and expected in said[-1]
