"""What was fitted to a checkpoint before goes along with a new calibration, and is said where it cannot."""

import csv
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands import evaluate
from modeling_resformer.errors import BadInputError
from modeling_resformer.evaluation.evaluation import cut_into_thirds
from modeling_resformer.metrics.scaling import Scaling, fit_scaling, moved_thresholds
from modeling_resformer.pipeline_resformer import averaged_logits
from modeling_resformer.publishing.repository_checks import check_calibration


BEFORE = {
    "classification_scale": [0.5, 3.0],
    "classification_shift": [0.4, -0.2],
    "mask_temperature": 2.0,
    "label_set_level": 0.8,
    "label_set_thresholds": [0.99, 0.99],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    prepared_dataset(train=8, validation=60, test=4).save_to_disk(str(folder))
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """With a head that tells rows apart, so that there is something to scale."""
    torch.manual_seed(0)
    config = tiny_config(
        id2label=dict(enumerate(MASK_CLASSES)),
        classification_labels=CLASS_LABELS,
        classification_thresholds=[0.5, 0.5],
        **BEFORE,
    )
    model = ResFormerForMultiTask(config)
    with torch.no_grad():
        model.classification_head.classifier.weight.mul_(40)
    model.save_pretrained(tmp_path / "model")
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(checkpoint, dataset, output, *flags):
    """(config, decisions and (N, K) probabilities and labels of the validation split)"""
    paths = ["--model", str(checkpoint), "--dataset", str(dataset), "--output", str(output), "--split", "validation"]
    assert evaluate.main([*paths, "--use_cpu", "--bootstrap_samples", "0", *flags]) == 0
    decisions = json.loads((output / "results.json").read_text())["decisions"]
    with open(output / "per_case.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    columns = [
        np.array([[float(line[f"{kind}_{name}"] or "nan") for name in CLASS_LABELS] for line in lines])
        for kind in ("probability", "label")
    ]
    return json.loads((checkpoint / "config.json").read_text()), decisions, *columns


@pytest.mark.long
def test_a_new_calibration_keeps_the_decisions_and_fits_the_label_sets_anew(checkpoint, dataset, tmp_path):
    first = json.loads((checkpoint / "config.json").read_text())
    _, probabilities, _ = run(checkpoint, dataset, tmp_path / "before")[1:]
    middle = np.median(probabilities, axis=0)
    first["classification_thresholds"] = (middle + 1e-6).tolist()
    (checkpoint / "config.json").write_text(json.dumps(first))
    _, decided, *_ = run(checkpoint, dataset, tmp_path / "decided")
    config, decided_now, probabilities, labels = run(checkpoint, dataset, tmp_path / "after", "--calibrate")
    assert config.get("classification_scale") != first["classification_scale"]
    assert decided_now == decided
    assert all(0 < counts["tp"] + counts["fp"] < 60 for counts in decided.values())
    for k, threshold in enumerate(config["label_set_thresholds"]):
        present = probabilities[labels[:, k] == 1, k]
        assert 0.8 <= (present >= threshold - 1e-6).mean() < 0.95
    again, *_ = run(checkpoint, dataset, tmp_path / "again", "--calibrate")
    for name in ("classification_thresholds", "label_set_thresholds", "mask_temperature"):
        assert again[name] == pytest.approx(config[name], rel=1e-4)


def test_the_calibration_of_the_other_task_stays(checkpoint, dataset, tmp_path):
    config, *_ = run(checkpoint, dataset, tmp_path / "out", "--calibrate", "--task", "classification")
    assert config["mask_temperature"] == BEFORE["mask_temperature"]
    assert config.get("classification_scale") != BEFORE["classification_scale"]


def test_thresholds_move_by_hand():
    """0.5 is a logit of 0, which was -1 / 2 before the former scaling, and is 3 (-1 / 2) + 2 = 1 / 2 by the new one."""
    former, now = Scaling.of([2.0, 1.0], [1.0, 0.0], 2), Scaling.of([3.0, 1.0], [2.0, 0.0], 2)
    assert moved_thresholds([0.5, 0.0], former, now) == pytest.approx([1 / (1 + np.exp(-0.5)), 0.0])
    assert moved_thresholds([1.0, 0.3], Scaling.of(None, None, 2), now) == pytest.approx([1.0, 0.3])


def test_a_class_that_validation_lacks_is_not_ruled_out():
    """Of three classes that exclude each other the last is in no row; unguarded, its shift falls without end."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    logits = rng.normal(size=(200, 3)) + 2 * np.eye(3)[truth]
    fitted = fit_scaling(logits, np.eye(3)[truth], exclusive=True, shifted=True)
    assert fitted.shift.tolist() == [0.0, 0.0, 0.0]
    assert fitted.scale[0] > 0


def test_members_of_which_one_tells_no_distance_are_averaged_without():
    logits = {"classification_logits": torch.zeros(1, 2)}
    assert set(averaged_logits([{**logits, "distance": torch.ones(1)}, logits])) == {"classification_logits"}


def test_missing_numbers_are_in_no_third():
    cut = cut_into_thirds([float("nan"), *map(float, range(12))])
    assert cut[0] is None
    assert len(set(cut[1:])) == 3


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ({"thresholds": {"red": 0.5, "brown": 0.5}}, "other calibration and label sets than config.json has"),
        (
            {"uncalibrated": {}, "thresholds": {}, "label_sets": {"thresholds": {"red": 0.9, "brown": 0.99}}},
            "label sets",
        ),
        ({"uncalibrated": {}, "thresholds": {}, "label_sets": {"thresholds": {"red": 0.99, "brown": 0.99}}}, None),
    ],
)
def test_results_of_another_calibration_are_not_published(checkpoint, measured, told):
    (checkpoint / "results.json").write_text(json.dumps(measured))
    if told is None:
        check_calibration(checkpoint)
    else:
        with pytest.raises(BadInputError, match=told):
            check_calibration(checkpoint)


def test_deep_images_are_not_spoilt_at_eight_bits(checkpoint, tmp_path, capsys):
    test = prepared_dataset(test=2)["test"]
    image = Image.fromarray(np.full((40, 48), 40_000, dtype=np.uint16))
    rows = Dataset.from_list([{**row, "image": image} for row in test], features=test.features)
    DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "deep"))
    paths = ["--model", str(checkpoint), "--dataset", str(tmp_path / "deep"), "--output", str(tmp_path / "out")]
    assert evaluate.main([*paths, "--use_cpu", "--robustness"]) == 1
    assert "--robustness spoils images of 8 bits" in capsys.readouterr().err
