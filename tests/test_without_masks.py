"""Rows that nobody annotated for the task are left out of training, and a dataset without masks trains a classifier."""

import json
import logging

import pytest
from datasets import Dataset, DatasetDict
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import ARCHITECTURE

from modeling_resformer import ResFormerForImageClassification
from modeling_resformer.commands import evaluate, predict, train
from modeling_resformer.data.columns import dataset_features
from modeling_resformer.data.rows import annotated_rows
from modeling_resformer.heads import TASKS


FLAGS = ["--config", json.dumps(ARCHITECTURE), "--image_size", "32", "--num_train_epochs", "1", "--use_cpu"]
FLAGS += ["--bootstrap_samples", "0", "--cpu_threads", "1"]


def changed(dataset, mask_classes, change):
    """The dataset with every row of every part changed by a function of part, number and row."""
    features = dataset_features(mask_classes, CLASS_LABELS)
    return DatasetDict(
        {
            part: Dataset.from_list([row | change(part, i, row) for i, row in enumerate(rows)], features=features)
            for part, rows in dataset.items()
        }
    )


def partly_annotated(part, number, row):
    """Of every four training rows: as before, labels alone (all unknown in one), a mask alone, neither."""
    if part != "train":
        return {}
    no_mask = {"mask": None, "mask_classes": None}
    no_labels = {"class_labels": None, "class_labels_unknown": []}
    if number == 1:
        return {**no_mask, "class_labels": [], "class_labels_unknown": CLASS_LABELS}
    return [{"class_labels": [0], "class_labels_unknown": []}, no_mask | {"class_labels": [1]}, no_labels,
            no_mask | no_labels][number % 4]  # fmt: skip


@pytest.fixture(scope="module")
def partly():
    return changed(prepared_dataset(validation=2, test=2), MASK_CLASSES, partly_annotated)


def test_only_rows_annotated_for_the_task_are_learned_from(partly):
    """All labels of row 1 are unknown, and row 2 never had a mask; rows 3 and 7 have neither mask nor labels."""
    rows = partly["train"]
    masked = [index for index, classes in enumerate(rows["mask_classes"]) if classes is not None]
    assert masked == [0, 4, 6]
    assert list(annotated_rows(rows, TASKS["segmentation"])["case_id"]) == [rows["case_id"][i] for i in masked]
    kept = annotated_rows(rows, TASKS["classification"])
    assert list(kept["class_labels"]) == [[0], [0], [1]]  # rows 0, 4 and 5
    assert len(annotated_rows(rows, TASKS["multi_task"])) == 4  # rows 0, 4, 5 and 6


def test_a_dataset_without_such_rows_stays_the_very_same():
    rows = prepared_dataset()["train"]
    assert annotated_rows(rows, TASKS["multi_task"]) is rows


def test_rows_that_are_left_out_are_said_in_one_line_and_stay_in_the_record(partly, tmp_path, caplog):
    partly.save_to_disk(str(tmp_path / "dataset"))
    with caplog.at_level(logging.INFO):
        assert train.main(["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "run"), *FLAGS]) == 0
    told = [line for line in caplog.messages if "left out" in line]
    assert told == ["4 of 8 training rows are not annotated for this task and are left out."]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["training"]["rows"] == 4
    assert (record["dataset"]["splits"]["train"]["rows"], record["dataset"]["splits"]["train"]["rows_with_mask"]) == (
        8,
        3,
    )
    assert any(line.startswith("Expected: ") and "for 4 images x 1 epoch;" in line for line in caplog.messages)


@pytest.fixture(scope="module")
def without_masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_masks") / "dataset"
    no_mask = {"mask": None, "mask_classes": None}

    def change(part, number, row):
        labels = row["class_labels"]
        return no_mask | {"class_labels": labels and [CLASS_LABELS[i] for i in labels]}

    changed(prepared_dataset(train=4, validation=4, test=4), ["background"], change).save_to_disk(str(folder))
    return folder


@pytest.mark.long
def test_a_dataset_without_masks_trains_evaluates_and_predicts_a_classification(without_masks, tmp_path):
    run, dataset = str(tmp_path / "run"), str(without_masks)
    assert train.main(["--dataset", dataset, "--output_dir", run, "--task", "classification", *FLAGS]) == 0
    model = ResFormerForImageClassification.from_pretrained(run)
    assert model.config.image_class_names == CLASS_LABELS
    scores = json.loads((tmp_path / "run" / "results.json").read_text())["model"]
    assert "accuracy" in scores
    assert "jaccard" not in scores
    again = ["--model", run, "--dataset", dataset, "--output", str(tmp_path / "test"), "--use_cpu"]
    assert evaluate.main([*again, "--bootstrap_samples", "0"]) == 0
    found = json.loads((tmp_path / "test" / "results.json").read_text())["model"]
    assert found["accuracy"]["value"] == scores["accuracy"]["value"]
    assert (
        predict.main(["--model", run, "--dataset", dataset, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    )
    assert (tmp_path / "out" / "predictions.csv").is_file()
    # A further training from that checkpoint keeps what the first one had to name.
    further = [*FLAGS[4:], "--image_size", "32", "--model", run, "--task", "classification", "--dataset", dataset]
    assert train.main([*further, "--output_dir", str(tmp_path / "further")]) == 0


@pytest.mark.parametrize("task", ["multi_task", "segmentation"])
def test_a_task_that_needs_masks_is_refused_with_the_one_that_does_not(without_masks, tmp_path, capsys, task):
    flags = ["--dataset", str(without_masks), "--output_dir", str(tmp_path / "run"), "--task", task, *FLAGS]
    assert train.main(flags) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "was prepared without masks" in line
    assert "--task classification" in line
    assert "--config" not in line
