"""What a run is refused for, or warned of, before it starts."""

import json
import logging
import re

import pytest
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import ARCHITECTURE, tiny_config
from transformers import TrainingArguments

from modeling_resformer import ResFormerImageProcessorPil
from modeling_resformer.commands import train
from modeling_resformer.data.class_weights import balanced_class_weights
from modeling_resformer.data.prepared import PreparedDataset
from modeling_resformer.errors import BadInputError
from modeling_resformer.heads import TASKS
from modeling_resformer.training.building import synchronise_batch_norms
from modeling_resformer.training.run_checks import check_annotations, check_devices, check_image_size


def without(part, **columns):
    """The dataset, with those columns of one split null."""
    dataset = prepared_dataset(train=4, validation=2, test=2)
    features = dataset[part].features
    dataset[part] = dataset[part].map(lambda row: columns, features=features)
    return PreparedDataset(dataset, MASK_CLASSES, CLASS_LABELS, {})


NO_MASKS, NO_LABELS = {"mask": None, "mask_classes": None}, {"class_labels": None, "class_labels_unknown": []}


@pytest.mark.parametrize(
    ("part", "columns", "task", "said"),
    [
        ("train", NO_LABELS, "multi_task", "No row of the train split has image-level labels"),
        ("train", NO_MASKS, "multi_task", "No row of the train split has a mask"),
        ("validation", NO_MASKS, "multi_task", "No row of the validation split has a mask"),
    ],
)
def test_a_task_with_nothing_to_learn_beside_one_that_has_is_warned_of(caplog, part, columns, task, said):
    with caplog.at_level(logging.WARNING):
        check_annotations(without(part, **columns), TASKS[task], "folder")
    assert said in caplog.text


@pytest.mark.parametrize(
    ("part", "columns", "task", "said"),
    [
        ("train", NO_LABELS, "classification", "no row of the train split has image-level labels"),
        ("validation", NO_MASKS, "segmentation", "no row of the validation split has a mask"),
        (
            "train",
            {**NO_MASKS, **NO_LABELS},
            "multi_task",
            "no row of the train split has a mask or image-level labels",
        ),
    ],
)
def test_a_run_with_nothing_to_learn_is_refused(part, columns, task, said):
    with pytest.raises(BadInputError, match=said):
        check_annotations(without(part, **columns), TASKS[task], "folder")


def test_a_class_that_never_occurs_weighs_1_and_is_warned_of(caplog):
    """Rows 0 and 2 are red, 1 is brown, 3 is unlabelled: without row 1, two labelled rows of two classes."""
    rows = prepared_dataset(train=4)["train"].select([0, 2, 3])
    with caplog.at_level(logging.WARNING):
        assert balanced_class_weights(rows) == [2 / (2 * 2), 1]
    assert "No training row has the class brown" in caplog.text


@pytest.mark.parametrize(("size", "refused"), [((16, 16), True), ((16, 17), False), ((32, 32), False)])
def test_images_that_leave_a_batch_norm_one_value_are_refused(size, refused):
    processor = ResFormerImageProcessorPil(size={"height": size[0], "width": size[1]})
    if not refused:
        return check_image_size(processor, tiny_config())
    with pytest.raises(BadInputError, match=r"16 x 16 leave .* expected more than 16"):
        check_image_size(processor, tiny_config())


def test_several_gpus_in_one_process_are_refused_with_the_cure(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    check_devices(arguments)
    arguments._n_gpu = 2
    with pytest.raises(BadInputError, match="accelerate launch"):
        check_devices(arguments)


def test_synchronised_batch_norm_is_refused_on_several_cpu_processes(tmp_path, monkeypatch):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(BadInputError, match="on GPUs only"):
        synchronise_batch_norms(None, arguments)


def test_one_image_for_each_part_trains_in_a_batch_of_one_and_is_evaluated(tmp_path, caplog):
    prepared_dataset(train=1, validation=1, test=1).save_to_disk(str(tmp_path / "dataset"))
    flags = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "run"), "--use_cpu"]
    flags += ["--per_device_train_batch_size", "1", "--image_size", "32", "--num_train_epochs", "2"]
    flags += ["--config", json.dumps(ARCHITECTURE), "--class_weights", "balanced", "--bootstrap_samples", "20"]
    with caplog.at_level(logging.INFO):
        assert train.main([*flags, "--disable_tqdm", "True", "--report_to", "none"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["images"] == 1
    assert results["model"]["dice"]["n"] == 1
    assert "No training row has the class brown" in caplog.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lerning_rate", "1"], r"unrecognized arguments: --lerning_rate"),
        (["--config", '{"hidden_act": "gelo"}'], r"hidden_act='gelo' is unknown; use one of gelu"),
        (["--config", '{"window": 7}'], r"\['window'\], which are no fields of ResFormerConfig"),
        (["--config", '{"window_size": "7"}'], r"window_size"),
        (["--image_size", "16"], r"expected more than 16"),
    ],
)
def test_a_mistake_ends_in_one_line(tmp_path, capsys, flags, said):
    folder = tmp_path / "dataset"
    prepared_dataset(train=2, validation=2, test=2).save_to_disk(str(folder))
    assert train.main(["--dataset", str(folder), "--output_dir", str(tmp_path / "run"), "--use_cpu", *flags]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(said, lines[0])
