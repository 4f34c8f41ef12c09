"""The three classes train by one script, and each leaves the scores of its own task behind."""

import csv
import json
import logging

import pytest
import torch
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import ARCHITECTURE, tiny_config
from small_trainer import make_trainer

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
)
from modeling_resformer.commands import train
from modeling_resformer.heads import TASKS, task_named


MASK_SCORES, LABEL_SCORES = {"dice", "jaccard", "dice_volume"}, {"auc", "accuracy", "calibration_error"}
MODEL_CLASSES = {
    "multi_task": ResFormerForMultiTask,
    "segmentation": ResFormerForSemanticSegmentation,
    "classification": ResFormerForImageClassification,
}


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    prepared_dataset().save_to_disk(str(folder))
    return folder


def run(dataset_folder, output, *flags):
    settings = {"config": ARCHITECTURE, "image_size": 32, "num_train_epochs": 1, "bootstrap_samples": 0}
    settings |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    recipe = output.with_suffix(".json")
    recipe.write_text(json.dumps(settings))
    assert train.main([str(recipe), "--dataset", str(dataset_folder), "--output_dir", str(output), *flags]) == 0


@pytest.mark.parametrize(
    ("task", "present", "absent", "loss"),
    [
        ("segmentation", MASK_SCORES, LABEL_SCORES, "segmentation_loss"),
        ("classification", LABEL_SCORES, MASK_SCORES, "classification_loss"),
    ],
)
def test_a_single_task_leaves_its_own_scores_only(dataset_folder, tmp_path, caplog, task, present, absent, loss):
    output = tmp_path / task
    with caplog.at_level(logging.INFO):
        run(dataset_folder, output, "--task", task, "--class_weights", "balanced")
    results = json.loads((output / "results.json").read_text())
    assert present <= set(results["model"])
    assert not absent & set(results["model"])
    assert results["losses"] == {"loss": results["losses"][loss], loss: results["losses"][loss]}
    assert bool(results["baselines"]) == (task == "segmentation")
    with open(output / "per_case.csv", newline="") as file:
        columns = csv.DictReader(file).fieldnames
    assert any(name.startswith(("dice_", "tp_")) for name in columns) == (task == "segmentation")
    assert any(name.startswith(("probability_", "label_")) for name in columns) == (task == "classification")
    assert not any(line.split(" ")[0] in absent for line in caplog.text.splitlines())
    model = MODEL_CLASSES[task].from_pretrained(output)
    assert model.config.architectures == [MODEL_CLASSES[task].__name__]
    assert (model.config.mask_class_names, model.config.image_class_names) == (MASK_CLASSES, CLASS_LABELS)
    logged = [
        line for line in json.loads((output / "trainer_state.json").read_text())["log_history"] if "loss" in line
    ]
    assert logged[0]["loss"] == pytest.approx(logged[0][loss], abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_eval_loss_is_what_the_model_itself_gives_for_one_batch_of_everything(tmp_path, task):
    dataset = prepared_dataset()
    trainer = make_trainer(dataset, tmp_path, model_class=MODEL_CLASSES[task], per_device_eval_batch_size=2)
    batch = trainer.data_collator([trainer.eval_dataset[i] for i in range(5)])
    labels = {"labels": batch["mask_labels" if task == "segmentation" else "class_labels"]}
    if task == "multi_task":
        labels = {name: batch[name] for name in ("mask_labels", "class_labels")}
    with torch.no_grad():
        loss = trainer.model.eval()(batch["pixel_values"], **labels).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_single_task_starts_from_a_multi_task_checkpoint(dataset_folder, tmp_path, task):
    """At learning rate 0 its weights stay, but for classes of other names; thresholds of other weights are dropped."""
    config = tiny_config(
        id2label=dict(enumerate(MASK_CLASSES)),
        classification_labels=["one", "two"],
        classification_thresholds=[0.1, 0.9],
    )
    source = ResFormerForMultiTask(config)
    source.save_pretrained(tmp_path / "source")
    make_trainer(prepared_dataset(), tmp_path).processing_class.save_pretrained(tmp_path / "source")
    flags = ["--model_name_or_path", str(tmp_path / "source"), "--learning_rate", "0", "--task", task]
    run(dataset_folder, tmp_path / "run", *flags)
    model = MODEL_CLASSES[task].from_pretrained(tmp_path / "run")
    assert (model.config.mask_class_names, model.config.image_class_names) == (MASK_CLASSES, CLASS_LABELS)
    assert model.config.classification_thresholds is None
    expected = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        anew = name.startswith("classification_head.classifier")
        assert torch.equal(parameter, expected[name]) != (anew and parameter.dim() > 1), name


def test_a_class_without_a_task_is_refused_by_name():
    with pytest.raises(ValueError, match=r"ResFormerBackbone.*expected one of ResFormerForMultiTask"):
        task_named("ResFormerBackbone")
