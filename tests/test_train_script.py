"""scripts/train.py from the command line to the files it leaves behind."""

import csv
import getpass
import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import ARCHITECTURE
from transformers import TimmBackboneConfig

from modeling_resformer import ResFormerConfig, ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands import prepare_isic2017, train
from modeling_resformer.evaluation.results import format_table
from modeling_resformer.training.arguments import parse_arguments


ROOT = Path(__file__).parents[1]
TOKEN = "hf_thisMustStayOut"
RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.json"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short run: (dataset, output folder)."""
    folder = tmp_path_factory.mktemp("run")
    dataset = prepared_dataset(train=8, validation=6, test=6)
    dataset.save_to_disk(str(folder / "dataset"))
    recipe = {
        "config": ARCHITECTURE,
        "image_size": 32,
        "class_weights": "balanced",
        "num_train_epochs": 9,
        "learning_rate": 0.005,
        "per_device_train_batch_size": 4,
        "bootstrap_samples": 50,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    output = folder / "output"
    flags = ["--dataset", str(folder / "dataset"), "--output_dir", str(output), "--num_train_epochs", "3"]
    assert train.main([str(folder / "recipe.json"), *flags, "--hub_token", TOKEN]) == 0
    return dataset, output


@pytest.fixture
def results(run):
    return json.loads((run[1] / "results.json").read_text())


def test_the_saved_model_knows_the_labels_and_weights_of_its_dataset(run):
    _, output = run
    model, processor = ResFormerForMultiTask.from_pretrained(output), ResFormerImageProcessor.from_pretrained(output)
    assert model.config.mask_class_names == MASK_CLASSES
    assert model.config.image_class_names == CLASS_LABELS
    # Of 8 training rows two are unlabelled (3 and 7, both brown): 4 red and 2 brown of N = 6, K = 2.
    assert model.config.class_weights == pytest.approx([6 / (2 * 4), 6 / (2 * 2)])
    assert (processor.size["height"], processor.size["width"]) == (32, 32)


def test_the_lowest_validation_loss_is_what_is_saved(run):
    _, output = run
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    losses = [line["eval_loss"] for line in history if "eval_loss" in line]
    assert len(losses) == 3
    flags = ["--model_name_or_path", str(output), "--dataset", str(output.parent / "dataset"), "--learning_rate", "0"]
    flags += ["--max_steps", "1", "--eval_on_start", "--output_dir", str(output.parent / "again"), "--use_cpu"]
    flags += ["--bootstrap_samples", "0", "--disable_tqdm", "True", "--class_weights", "balanced"]
    assert train.main(flags) == 0
    again = json.loads((output.parent / "again" / "trainer_state.json").read_text())["log_history"]
    assert again[0]["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_results_come_with_n_baselines_and_a_warning_of_few_cases(results):
    assert (results["split"], results["images"], results["cases"]) == ("test", 6, 3)
    # Of 6 rows, 2 and 5 have no mask; 3 has no labels, and 4 one unknown label.
    assert results["model"]["jaccard"]["n"] == 4
    assert results["model"]["accuracy"]["n"] == 9
    # Three cases are too few for an interval, and for much else.
    assert results["model"]["jaccard"]["value"] is not None
    assert (results["model"]["jaccard"]["low"], results["model"]["jaccard"]["high"]) == (None, None)
    assert results["warnings"] == [
        "Only 3 cases were scored: with fewer than 10, no figure is more than an impression."
    ]
    assert results["model"]["false_positive_rate_empty_lesion"] == {"value": None, "low": None, "high": None, "n": 0}
    assert set(results["baselines"]) == {"everything_lesion", "mean_training_mask", "otsu_threshold"}
    assert all(scores["jaccard"]["n"] == 4 for scores in results["baselines"].values())
    # The blobs are dark and nothing else is.
    assert results["baselines"]["otsu_threshold"]["jaccard"]["value"] > 0.95


def test_the_baseline_of_everything_lesion_is_the_mean_share_of_the_masks(run, results):
    masks = [np.asarray(mask) for mask in run[0]["test"]["mask"] if mask is not None]
    share = np.mean([(mask == 1).mean() for mask in masks])
    assert results["baselines"]["everything_lesion"]["jaccard"]["value"] == pytest.approx(share)


def test_the_table_can_be_computed_from_the_lines_per_case_again(run, results):
    with open(run[1] / "per_case.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["case_id"], line["slice_index"]) for line in lines] == [
        (row["case_id"], str(row["slice_index"])) for row in run[0]["test"]
    ]
    jaccards = [float(line["jaccard_lesion"]) for line in lines if line["jaccard_lesion"]]
    assert np.mean(jaccards) == pytest.approx(results["model"]["jaccard"]["value"])
    decided = [
        (float(line[f"probability_{name}"]) >= 0.5) == (line[f"label_{name}"] == "1")
        for line in lines
        for name in CLASS_LABELS
        if line[f"label_{name}"]
    ]
    assert np.mean(decided) == pytest.approx(results["model"]["accuracy"]["value"])


def test_the_run_record_says_how_the_checkpoint_came_about(run):
    dataset, output = run
    text = (output / "run.json").read_text()
    record = json.loads(text)
    model = ResFormerForMultiTask.from_pretrained(output)
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    best = min((line for line in history if "eval_loss" in line), key=lambda line: line["eval_loss"])
    assert record["model"]["parameters"] == model.num_parameters()
    assert record["training"] == {
        "rows": 8,
        "epochs": 3,
        "steps": 6,
        "batch_size": 4,
        "selected": {"metric": "loss", "value": best["eval_loss"], "epoch": best["epoch"], "step": best["step"]},
    }
    assert record["settings"]["config"] == json.loads(json.dumps(ARCHITECTURE))
    assert (record["settings"]["learning_rate"], record["settings"]["class_weights"]) == (0.005, "balanced")
    train_part = record["dataset"]["splits"]["train"]
    assert (train_part["rows"], train_part["cases"]) == (8, 4)
    assert train_part["rows_with_mask"] == sum(mask is not None for mask in dataset["train"]["mask"])
    assert train_part["class_counts"] == {"red": 4, "brown": 2}
    assert record["dataset"]["name"] == "dataset"
    assert 0 < record["duration_seconds"] < 600


def test_records_tell_no_place_no_name_and_no_token(run):
    _, output = run
    secrets = {str(output.parent), TOKEN, socket.gethostname(), getpass.getuser() if os.getuid() else "/root/"}
    records = [path for path in output.rglob("*") if path.suffix in (".json", ".md", ".csv", ".bin")]
    assert {"run.json", "trainer_state.json", "results.json", "training_args.bin"} <= {path.name for path in records}
    for path in records:
        # The Trainer's own pickle holds its arguments, and is no part of a repository.
        told = {TOKEN} if path.suffix == ".bin" else secrets
        assert not [secret for secret in told if secret.encode() in path.read_bytes()], path


def test_flags_win_over_the_recipe_and_config_fields_are_joined(tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"seed": 1, "learning_rate": 0.5, "config": {"window_size": 4, "mlp_ratio": 2}}))
    flags = ["--dataset", "d", "--learning_rate", "0.25", "--config", '{"window_size": 8}']
    model, data, training = parse_arguments([str(recipe), *flags])
    assert (training.seed, training.learning_rate, data.dataset) == (1, 0.25, "d")
    assert model.config == {"window_size": 8, "mlp_ratio": 2}
    assert training.metric_for_best_model == "loss"
    assert not training.greater_is_better


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ({"lerning_rate": 1}, [], "lerning_rate"),
        ({}, [], "--dataset is missing"),
        ({}, ["--dataset", "d", "--config", "[1]"], "expected a JSON object"),
        ({}, ["--dataset", "d", "--class_weights", "equal"], "expected 'balanced'"),
        ({}, ["--dataset", "d", "--cpu_threads", "0"], "expected 1 or more"),
    ],
)
def test_mistakes_are_named(tmp_path, recipe, flags, message):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match=message):
        parse_arguments([str(path), *flags])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("metric", "greater"),
    [("eval_jaccard", True), ("auc", True), ("segmentation_loss", False), ("calibration_error", False)],
)
def test_a_recipe_selected_by_another_metric_knows_its_direction(recipe, metric, greater, tmp_path):
    flags = ["--dataset", "d", "--output_dir", str(tmp_path), "--metric_for_best_model", metric]
    assert parse_arguments([str(recipe), *flags])[2].greater_is_better is greater
    assert parse_arguments([str(recipe), *flags, "--greater_is_better", "False"])[2].greater_is_better is False


def test_a_dataset_without_validation_part_is_refused_with_the_cure(run, tmp_path, capsys):
    dataset = type(run[0])({"train": run[0]["train"]})
    dataset.save_to_disk(str(tmp_path / "dataset"))
    flags = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert train.main(flags) == 1
    assert re.search(r"error: .*no test and no validation split.*--validation-fraction", capsys.readouterr().err)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_holds_no_path_of_its_own(recipe, tmp_path):
    model, _, training = parse_arguments([str(recipe), "--dataset", "d", "--output_dir", str(tmp_path / "out")])
    assert training.num_train_epochs > 0
    assert not {"dataset", "output_dir", "model_name_or_path"} & set(json.loads(recipe.read_text()))
    if model.backbone:
        pytest.importorskip("timm")
        assert model.backbone.startswith("efficientnet-lite")
        model.config["backbone_config"] = TimmBackboneConfig(backbone="tf_efficientnet_lite0")
    ResFormerConfig(**model.config)


def test_the_table_leaves_out_what_the_data_do_not_define():
    def entry(value, n):
        return {"value": value, "low": None, "high": None, "n": n}

    model = {name: entry(0.5, 3) for name in ("dice", "jaccard", "dice_present", "volume_difference", "accuracy")} | {
        "auc": entry(None, 0)
    }
    table = format_table(
        {"interval": {"level": 0.95}, "model": model, "baselines": {"otsu": {"dice": entry(0.25, 3)}}}
    )
    assert "auc" not in table
    assert table.splitlines()[1].split() == ["dice", "3", "0.500", "-", "0.250"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tiny_recipe_clearly_beats_every_baseline_on_real_photographs(tmp_path, seed):
    sample, dataset = ROOT / "examples" / "isic2017_sample", tmp_path / "dataset"
    splits = ["--splits", str(sample / "split.csv"), "--image-size", "128"]
    prepare_isic2017.main(["--source", str(sample), "--output", str(dataset), *splits])
    flags = ["--dataset", str(dataset), "--output_dir", str(tmp_path / "run"), "--seed", str(seed)]
    assert train.main([str(ROOT / "scripts" / "recipes" / "tiny_cpu.json"), *flags]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in ("dice", "jaccard"):
        best_baseline = max(scores[name]["value"] for scores in results["baselines"].values())
        assert results["model"][name]["value"] > best_baseline + 0.03
