"""scripts/evaluate.py: the files of scripts/train.py for any checkpoint and part, and thresholds from validation only."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from datasets import DatasetDict
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import ARCHITECTURE, tiny_config
from transformers import ViTConfig

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands import evaluate, train
from modeling_resformer.errors import BadInputError
from modeling_resformer.evaluation import report_page
from modeling_resformer.publishing.repository_checks import check_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """(splits, folder)"""
    folder = tmp_path_factory.mktemp("dataset")
    splits = prepared_dataset(train=8, validation=16, test=6)
    splits.save_to_disk(str(folder))
    return splits, folder


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """What scripts/train.py left after one epoch."""
    output = tmp_path_factory.mktemp("trained") / "output"
    flags = ["--dataset", str(dataset[1]), "--output_dir", str(output), "--config", json.dumps(ARCHITECTURE)]
    flags += ["--image_size", "32", "--num_train_epochs", "1", "--bootstrap_samples", "20", "--use_cpu"]
    assert train.main([*flags, "--disable_tqdm", "True"]) == 0
    return output


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of random weights for the dataset's labels, which a test may write to."""
    folder = tmp_path / "checkpoint"
    config = tiny_config(id2label=dict(enumerate(MASK_CLASSES)), classification_labels=CLASS_LABELS)
    ResFormerForMultiTask(config).save_pretrained(folder)
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def run(model, dataset, output, *flags):
    """(exit status, results)"""
    paths = ["--model_name_or_path", str(model), "--dataset", str(dataset), "--output", str(output), "--use_cpu"]
    status = evaluate.main([*paths, "--bootstrap_samples", "20", *flags])
    file = Path(output) / "results.json"
    return status, json.loads(file.read_text()) if file.exists() else None


def test_the_files_are_those_that_training_left(dataset, trained, tmp_path, caplog):
    status, results = run(trained, dataset[1], tmp_path, "--batch_size", "2")
    assert status == 0
    assert set(results["warnings"]) <= set(caplog.messages)
    assert f"Only {results['cases']} cases were scored" in results["warnings"][0]
    expected = json.loads((trained / "results.json").read_text())
    assert list(results) == list(expected)
    assert (results["split"], results["images"], results["thresholds"]) == ("test", 6, {"red": 0.5, "brown": 0.5})
    assert results["baselines"] == expected["baselines"]
    assert results["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert set(results["model"]) == set(expected["model"])
    for name, score in expected["model"].items():
        known = {key: value for key, value in score.items() if value is not None}
        assert {key: results["model"][name][key] for key in known} == pytest.approx(known, rel=1e-5), name
    header = (trained / "per_case.csv").read_text().splitlines()[0]
    assert (tmp_path / "per_case.csv").read_text().splitlines()[0] == header


def test_the_page_of_a_later_evaluation_keeps_the_curves_of_the_training(dataset, trained, tmp_path, monkeypatch):
    drawn = []
    draw_page = report_page.draw_page
    monkeypatch.setattr(report_page, "draw_page", lambda *page: drawn.append(page) or draw_page(*page))
    assert run(trained, dataset[1], tmp_path / "again")[0] == 0
    _, log = drawn[0]
    state = json.loads((trained / "trainer_state.json").read_text())
    assert [line for line in log.lines if "eval_loss" in line] == [
        line for line in state["log_history"] if "eval_loss" in line
    ]
    assert log.selected_epoch == 1.0


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_one_task_of_a_multi_task_checkpoint(dataset, trained, tmp_path, task):
    status, results = run(trained, dataset[1], tmp_path, "--task", task)
    assert status == 0
    expected = json.loads((trained / "results.json").read_text())["losses"]
    assert results["losses"]["loss"] == pytest.approx(expected[f"{task}_loss"], rel=1e-5)


def test_a_dataset_of_one_part_has_no_baselines_to_learn(dataset, checkpoint, tmp_path):
    DatasetDict({"test": dataset[0]["test"]}).save_to_disk(str(tmp_path / "only_test"))
    status, results = run(checkpoint, tmp_path / "only_test", tmp_path / "out")
    assert (status, results["baselines"]) == (0, {})


def test_thresholds_are_the_best_on_validation_and_written_to_the_config(dataset, checkpoint, tmp_path):
    """The dataset has no test split, so nothing of it can have been looked at."""
    parts = DatasetDict({name: dataset[0][name] for name in ("train", "validation")})
    parts.save_to_disk(str(tmp_path / "dataset"))
    before = json.loads((checkpoint / "config.json").read_text())
    status, results = run(
        checkpoint, tmp_path / "dataset", tmp_path / "out", "--choose_thresholds", "--split", "validation"
    )
    after = json.loads((checkpoint / "config.json").read_text())
    assert status == 0
    chosen = after.pop("classification_thresholds")
    before.pop("classification_thresholds", None)
    assert after == before
    assert ResFormerForMultiTask.from_pretrained(checkpoint).config.classification_thresholds == chosen
    assert results["thresholds"] == dict(zip(CLASS_LABELS, chosen, strict=True))
    with open(tmp_path / "out" / "per_case.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for name, threshold in zip(CLASS_LABELS, chosen, strict=True):
        rows = [
            (float(line[f"probability_{name}"]), int(line[f"label_{name}"])) for line in lines if line[f"label_{name}"]
        ]
        probabilities, labels = np.array(rows).T
        scores = [sklearn.metrics.balanced_accuracy_score(labels, probabilities >= t) for t in probabilities]
        score = sklearn.metrics.balanced_accuracy_score(labels, probabilities >= threshold)
        assert score == pytest.approx(max(*scores, 0.5))


def test_a_test_part_is_scored_with_the_thresholds_of_validation(dataset, checkpoint, tmp_path):
    _, of_validation = run(checkpoint, dataset[1], tmp_path / "a", "--choose_thresholds", "--split", "validation")
    _, of_test = run(checkpoint, dataset[1], tmp_path / "b")
    assert of_test["thresholds"] == of_validation["thresholds"] != {"red": 0.5, "brown": 0.5}
    with open(tmp_path / "b" / "per_case.csv", newline="") as file:
        decided = [
            (float(line[f"probability_{name}"]) >= threshold) == (line[f"label_{name}"] == "1")
            for line in csv.DictReader(file)
            for name, threshold in of_test["thresholds"].items()
            if line[f"label_{name}"]
        ]
    assert np.mean(decided) == pytest.approx(of_test["model"]["accuracy"]["value"])


def test_new_thresholds_put_the_checkpoints_own_results_out_of_date(dataset, checkpoint, tmp_path, caplog):
    """One line says so, and the cure it names makes them fit for publishing again."""
    run(checkpoint, dataset[1], checkpoint)
    check_run(checkpoint)
    assert "out of date" not in caplog.text
    run(checkpoint, dataset[1], tmp_path / "out", "--choose_thresholds")
    (line,) = [message for message in caplog.messages if "out of date" in message]
    assert "\n" not in line
    assert f"{checkpoint / 'results.json'} is out of date: its decisions were measured at {{'red': 0.5" in line
    assert line.endswith(f"--model {checkpoint} --dataset ... --output {checkpoint}")
    with pytest.raises(BadInputError, match="measure again by"):
        check_run(checkpoint)
    caplog.clear()
    run(checkpoint, dataset[1], checkpoint)
    check_run(checkpoint)
    run(checkpoint, dataset[1], checkpoint, "--choose_thresholds")
    assert "out of date" not in caplog.text


def test_other_labels_are_refused_with_both_lists(dataset, tmp_path, capsys):
    ResFormerForMultiTask(tiny_config()).save_pretrained(tmp_path / "model")
    ResFormerImageProcessor().save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", dataset[1], tmp_path / "out") == (1, None)
    message = capsys.readouterr().err
    assert "['background', 'IRF', 'SRF', 'PED']" in message
    assert "['background', 'lesion']" in message


# A later flag wins over an earlier one of the same name.
EVALUATE = ("--model_name_or_path", "{model}", "--dataset", "{data}", "--output", "{tmp}/out")
TRAIN = ("--dataset", "{data}", "--output_dir", "{tmp}/out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model is missing"),
        ([*EVALUATE, "--slpit", "x"], "--slpit"),
        (
            [*EVALUATE, "--model_name_or_path", "{tmp}/none"],
            "no such folder; expected the folder or Hub id of a ResFormer",
        ),
        ([*EVALUATE, "--model_name_or_path", "{tmp}/vit"], "is a 'vit' model"),
        ([*EVALUATE, "--dataset", "{tmp}/none"], "no such folder"),
        ([*EVALUATE, "--dataset", "{model}"], "holds neither"),
        ([*EVALUATE, "--split", "tset"], "no ['tset'] split; it has ['test', 'train', 'validation']"),
        ([*EVALUATE, "--task", "detection"], "expected one of multi_task, segmentation, classification"),
        ([*EVALUATE, "--model_name_or_path", "a/b", "--choose_thresholds"], "download it first"),
        ([*EVALUATE, "--task", "segmentation", "--choose_thresholds"], "only segments"),
        ([*EVALUATE, "--auc_classes", "blue"], "expected some of the classes ['red', 'brown']"),
    ],
)
def test_mistakes_end_in_one_line(dataset, checkpoint, tmp_path, capsys, flags, message):
    ViTConfig().save_pretrained(tmp_path / "vit")
    capsys.readouterr()
    places = {"tmp": tmp_path, "data": dataset[1], "model": checkpoint}
    assert evaluate.main([flag.format(**places) for flag in flags]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*TRAIN, "--dataset", "{tmp}/none"], "no such folder"),
        ([*TRAIN, "--dataset", "{model}"], "holds neither"),
        (["{tmp}/none.json", *TRAIN], "none.json"),
        (["{tmp}/recipe.json", *TRAIN], "['lerning_rate'], which are no arguments"),
        ([*TRAIN, "--learning_rate", "fast"], "argument --learning_rate"),
        ([*TRAIN, "--lerning_rate", "1"], "--lerning_rate"),
        ([*TRAIN, "--config", '{{"window_sise": 8}}'], "['window_sise']"),
        ([*TRAIN, "--config", '{{"window_size": "8"}}'], "window_size"),
        ([*TRAIN, "--config", '{{"window_size": 1}}'], "must be 2 or more"),
        ([*TRAIN, "--auc_classes", "blue"], "['red', 'brown']"),
        ([*TRAIN, "--model_name_or_path", "{tmp}/none"], "ResFormer checkpoint"),
        ([*TRAIN, "--task", "detection"], "multi_task, segmentation"),
    ],
)
def test_mistakes_in_training_end_in_one_line(dataset, checkpoint, tmp_path, capsys, flags, message):
    (tmp_path / "recipe.json").write_text('{"lerning_rate": 1}')
    capsys.readouterr()
    places = {"tmp": tmp_path, "data": dataset[1], "model": checkpoint}
    assert train.main([flag.format(**places) for flag in flags]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.long
def test_a_mistake_shows_no_traceback_and_the_status_is_1(tmp_path):
    command = [
        sys.executable,
        "-m",
        "modeling_resformer.commands.train",
        "--dataset",
        str(tmp_path / "none"),
        "--use_cpu",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("error: ")


def test_a_diverging_run_stops_and_names_its_cases(dataset, tmp_path, capsys):
    flags = ["--dataset", str(dataset[1]), "--output_dir", str(tmp_path), "--config", json.dumps(ARCHITECTURE)]
    flags += ["--image_size", "32", "--learning_rate", "1e30", "--use_cpu", "--disable_tqdm", "True"]
    assert train.main([*flags, "--per_device_train_batch_size", "4", "--max_steps", "6"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "is not finite" in line
    assert "case_" in line
