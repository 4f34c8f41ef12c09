"""scripts/train_folds.py: one fold killed and resumed, what is pooled worked out by scikit-learn, what a card says of it."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from prepared_data import CLASS_LABELS, prepared_dataset
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score
from small_model import ARCHITECTURE

from modeling_resformer.commands import evaluate, push_to_hub, train, train_folds
from modeling_resformer.data.splits import read_manifest
from modeling_resformer.errors import BadInputError
from modeling_resformer.evaluation.answers import Classes, ScoredRows
from modeling_resformer.evaluation.per_case import read_per_case
from modeling_resformer.metrics.scores import figure
from modeling_resformer.prediction.predictor import ensemble_members
from modeling_resformer.publishing.card import Terms, write_model_card
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.publishing.repository import write_fold_summary
from modeling_resformer.training import seed_runs
from modeling_resformer.training.resuming import RepeatableSteps


FLAGS = ["--config", json.dumps(ARCHITECTURE), "--image_size", "32", "--num_train_epochs", "2", "--bootstrap_samples"]
FLAGS += ["50", "--use_cpu", "--yes", "--disable_tqdm", "True", "--learning_rate", "0.01", "--seed", "0"]


def trained_here(command):
    """In place of a process: `python -m modeling_resformer.commands.train ...`."""
    return SimpleNamespace(returncode=train.main(command[command.index("-m") + 2 :]))


def die_in_second_epoch(monkeypatch, fold):
    begin = RepeatableSteps.on_step_begin

    def on_step_begin(self, args, state, control, **kwargs):
        if f"fold-{fold}" in args.output_dir and state.epoch >= 1:
            raise KeyboardInterrupt
        begin(self, args, state, control, **kwargs)

    monkeypatch.setattr(RepeatableSteps, "on_step_begin", on_step_begin)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Of two folds on 20 rows, of which one of the test split is also one of the training split."""
    folder = tmp_path_factory.mktemp("folds")
    dataset = prepared_dataset(train=10, validation=5, test=4)
    row = {**dataset["train"][0], "case_id": "again"}
    rows = Dataset.from_list([*dataset["test"], row], features=dataset["test"].features)
    DatasetDict({**dataset, "test": rows}).save_to_disk(str(folder / "data"))
    (folder / "data" / "resformer.json").write_text(json.dumps({"source_fingerprint": "f00d", "builder": "Folder"}))
    return ["--folds", "2", "--output_dir", str(folder / "runs"), "--dataset", str(folder / "data"), *FLAGS]


@pytest.fixture(scope="module")
def runs(command, tmp_path_factory):
    """Folder of the folds, after a run whose second fold was stopped in its second epoch and one that ended it."""
    output = tmp_path_factory.getbasetemp() / command[3]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(seed_runs, "subprocess", SimpleNamespace(run=trained_here))
        with pytest.MonkeyPatch.context() as dying:
            die_in_second_epoch(dying, 1)
            assert train_folds.main(command) == 1
        begun = json.loads((output / "folds.json").read_text())
        assert (begun["folds"], begun["failed"], begun["pooled"]) == ([0], [1], None)
        assert not (output / "results.json").exists()
        with pytest.raises(BadInputError, match="fold-1 of 2 folds is not finished"):
            ensemble_members(str(output))
        before = (output / "fold-0" / "model.safetensors").stat().st_mtime_ns
        assert train_folds.main(command) == 0
        assert (output / "fold-0" / "model.safetensors").stat().st_mtime_ns == before
    return output


def table_of(folder):
    with open(folder / "per_case.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_an_interrupted_fold_goes_on_and_each_is_an_ordinary_run(runs):
    records = [json.loads((runs / f"fold-{fold}" / "run.json").read_text()) for fold in (0, 1)]
    assert [record["starts"] for record in records] == [1, 2]
    assert [record["dataset"]["split_rule"] for record in records] == [
        f"manifest fold_{fold}_of_2.csv" for fold in (0, 1)
    ]
    assert "splits" not in records[0]["settings"]
    manifests = [read_manifest(runs / f"fold-{fold}" / f"fold_{fold}_of_2.csv") for fold in (0, 1)]
    for fold, (manifest, record) in enumerate(zip(manifests, records, strict=True)):
        tested = {case_id for case_id, split in manifest.items() if split == "test"}
        assert {row["case_id"] for row in table_of(runs / f"fold-{fold}")} == tested
        assert record["dataset"]["splits"]["test"]["cases"] == len(tested)
        assert manifest["again"] == manifest["case_0"]
    for case_id in manifests[0]:
        assert [manifest[case_id] for manifest in manifests].count("test") == 1
    assert ensemble_members(str(runs)) == [str(runs / "fold-0"), str(runs / "fold-1")]


@pytest.mark.long
def test_pooled_scores_are_those_of_scikit_learn_on_all_rows(runs):
    results, rows = json.loads((runs / "results.json").read_text()), table_of(runs)
    assert rows == [*table_of(runs / "fold-0"), *table_of(runs / "fold-1")]
    assert len(rows) == 20 and results["split"] == "out-of-fold"
    assert results["images"] + results["unannotated"] == 20
    for name in CLASS_LABELS:
        known = [row for row in rows if row[f"label_{name}"] != ""]
        true = [int(row[f"label_{name}"]) for row in known]
        probabilities = [float(row[f"probability_{name}"]) for row in known]
        auc = results["model"][f"auc_{name}"]
        assert auc["value"] == pytest.approx(roc_auc_score(true, probabilities), abs=1e-12)
        assert auc["n"] == len(known)
        decided = results["decisions"][name]
        assert decided["tp"] + decided["fn"] == sum(true)
        assert decided["tp"] + decided["fp"] == sum(p >= 0.5 for p in probabilities)
    pixels = [[int(row[f"{part}_lesion"]) for part in ("tp", "fp", "fn", "tn")] for row in rows]
    scores = [(f1_score, "dice"), (jaccard_score, "jaccard")]
    for score, name in scores:
        each = []
        for counts in filter(any, pixels):
            true, predicted = np.repeat([1, 0, 1, 0], counts), np.repeat([1, 1, 0, 0], counts)
            each.append(score(true, predicted, zero_division=1))
        found = results["model"][f"{name}_lesion"]
        assert found["value"] == pytest.approx(np.mean(each), abs=1e-12) and found["n"] == len(each)
        assert found["low"] <= found["value"] <= found["high"]


@pytest.mark.long
def test_baselines_learn_from_the_training_rows_of_each_fold(runs):
    """Means by image, so that those of all images are those of the folds, weighed by images; losses likewise."""
    pooled = json.loads((runs / "results.json").read_text())
    each = [json.loads((runs / f"fold-{fold}" / "results.json").read_text()) for fold in (0, 1)]
    for name, scores in pooled["baselines"].items():
        parts = [one["baselines"][name]["dice_lesion"] for one in each]
        total = sum(part["value"] * part["n"] for part in parts)
        assert scores["dice_lesion"]["value"] == pytest.approx(total / sum(part["n"] for part in parts))
    assert pooled["baselines"].keys() == {"everything_lesion", "mean_training_mask", "otsu_threshold"}
    weighed = sum(one["losses"]["loss"] * one["images"] for one in each) / sum(one["images"] for one in each)
    assert pooled["losses"]["loss"] == pytest.approx(weighed)


@pytest.mark.long
def test_mean_and_deviation_over_the_folds_stand_beside_the_pooled_scores(runs):
    summary = json.loads((runs / "folds.json").read_text())
    values = [json.loads((runs / f"fold-{f}" / "results.json").read_text())["model"]["dice"]["value"] for f in (0, 1)]
    assert summary["model"]["dice"]["mean"] == pytest.approx(np.mean(values))
    assert summary["model"]["dice"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert summary["pooled"] == json.loads((runs / "results.json").read_text())
    assert (summary["number"], summary["seed"], summary["near_duplicates"]) == (2, 0, {"groups": 1, "cases": 2})
    assert "over 2 folds (0, 1), percent" in (runs / "folds.md").read_text()
    assert r"\toprule" in (runs / "folds.tex").read_text()
    for name in ("report.png", "samples.png", "folds.csv"):
        assert (runs / name).is_file()


@pytest.mark.long
def test_a_folds_own_table_of_splits_evaluates_it_again(command, runs, tmp_path):
    flags = ["--model", str(runs / "fold-1"), "--dataset", command[5], "--output", str(tmp_path), "--use_cpu"]
    splits = ["--splits", str(runs / "fold-1" / "fold_1_of_2.csv"), "--bootstrap_samples", "0", "--batch_size", "3"]
    assert evaluate.main([*flags, *splits]) == 0
    assert [row["case_id"] for row in table_of(tmp_path)] == [row["case_id"] for row in table_of(runs / "fold-1")]
    ours, theirs = (json.loads((one / "results.json").read_text())["model"] for one in (tmp_path, runs / "fold-1"))
    for name in ("dice", "auc_red"):
        assert ours[name]["value"] == pytest.approx(theirs[name]["value"], abs=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--learning_rate", "0.02"], "(learning_rate)"),
        (["--seed", "1"], "(seed)"),
        (["--folds", "3"], "(number, the cases"),
        (["--no-leakage-check"], "(near_duplicates)"),
    ],
)
def test_other_settings_are_refused_before_anything_is_trained(command, runs, change, said, capsys, monkeypatch):
    monkeypatch.setattr(seed_runs, "subprocess", SimpleNamespace(run=lambda command: pytest.fail("trained")))
    assert train_folds.main([*command, *change]) == 1
    error = capsys.readouterr().err
    assert "was begun with other folds or settings" in error and said.split(",")[0].rstrip(")") in error


@pytest.mark.long
def test_results_of_other_rows_are_not_pooled(command, runs, tmp_path, capsys):
    copied = tmp_path / "runs"
    shutil.copytree(runs, copied, ignore=shutil.ignore_patterns("checkpoint-*"))
    lines = (copied / "fold-1" / "per_case.csv").read_text().splitlines(keepends=True)
    (copied / "fold-1" / "per_case.csv").write_text("".join([lines[0], *lines[2:]]))
    assert train_folds.main([*command[:3], str(copied), *command[4:]]) == 1
    assert "tells of other rows than were tested" in capsys.readouterr().err


def test_flags_that_folds_decide_are_refused(capsys):
    for flags, said in (
        (["--splits", "a.csv"], "--splits"),
        (["--push-to-hub"], "--push_to_hub"),
        (["--folds", "1"], "2"),
    ):
        with pytest.raises(SystemExit):
            train_folds.parse(["--output_dir", "o", *flags])
        assert said in capsys.readouterr().err


def card_of(run, folder, folds=None):
    folder.mkdir(exist_ok=True)
    facts = read_facts(run, None, folds)
    write_model_card(folder, Terms("org/tiny"), facts)
    write_fold_summary(folder, facts)
    text = (folder / "README.md").read_text()
    return text.partition("### Cross-validation")[2].partition("\n## ")[0]


def run_of_no_fold(runs, folder, changes):
    """A copy of a fold's run elsewhere, whose record says something else at the places of `changes`."""
    fixed = folder / "fixed"
    shutil.copytree(runs / "fold-0", fixed, ignore=shutil.ignore_patterns("checkpoint-*"))
    record = json.loads((fixed / "run.json").read_text())
    for part, values in changes.items():
        record[part] |= values
    (fixed / "run.json").write_text(json.dumps(record))
    return fixed


@pytest.mark.long
def test_a_card_tells_the_folds_apart_from_its_own_weights(runs, tmp_path):
    pooled = json.loads((runs / "results.json").read_text())
    section = card_of(runs / "fold-1", tmp_path / "fold", runs)
    assert f"{pooled['images']} images of {pooled['cases']} cases" in section
    assert "never saw its case, nor a near-duplicate of it" in section
    assert "those of fold 1 alone" in section
    card = (tmp_path / "fold" / "README.md").read_text()
    assert "took no part in training or selection, nor did near-duplicates of them" in card
    dice = pooled["model"]["dice"]
    assert f"**{figure(dice['value'])} ({figure(dice['low'])} to {figure(dice['high'])})**" in section
    # A run of the same data that is no fold, trained at another rate; what is pushed again keeps the section.
    fixed = run_of_no_fold(runs, tmp_path, {"settings": {"learning_rate": 0.5}})
    section = card_of(fixed, tmp_path / "repository", runs)
    assert "are of none of these models, but of the fixed split" in section
    assert "they differ from these weights in learning_rate (" in section and " in place of " in section
    for name in ("config.json", "preprocessor_config.json", "results.json", "run.json"):
        shutil.copy(fixed / name, tmp_path / "repository")
    assert card_of(tmp_path / "repository", tmp_path / "again") == section
    shutil.copy(runs / "folds.json", fixed)  # as it is, beside the model
    assert card_of(fixed, tmp_path / "beside") == section
    (fixed / "folds.json").unlink()
    assert card_of(fixed, tmp_path / "without") == ""


@pytest.mark.long
def test_folds_of_copies_of_the_data_are_a_table(runs, tmp_path):
    fixed = run_of_no_fold(runs, tmp_path, {"dataset": {"fingerprint": "that of other dates"}})
    assert "are of none of these models" in card_of(fixed, tmp_path / "repository", runs)


@pytest.mark.long
def test_folds_of_other_data_or_unfinished_ones_are_no_table(runs, tmp_path, capsys):
    fixed = run_of_no_fold(runs, tmp_path, {"dataset": {"fingerprint": "other", "splits": {"test": {"rows": 1}}}})
    flags = ["--model", str(fixed), "--repo-id", "me/name", "--dry-run", "--output", str(tmp_path / "out")]
    assert push_to_hub.main([*flags, "--folds", str(runs)]) == 1
    said = capsys.readouterr().err
    assert "was of other data (fingerprint f00d, other " in said and "rows" in said
    (tmp_path / "folds.json").write_text(json.dumps({"number": 2, "pooled": None}))
    assert push_to_hub.main([*flags, "--folds", str(tmp_path)]) == 1
    assert "holds no finished folds" in capsys.readouterr().err


CLASSES = Classes(("background", "lesion"), ("a",), (0.5,))
MASKS = {
    f"{part}_{name}": value for name in CLASSES.masks for part, value in {"tp": 3, "fp": 1, "fn": 0, "tn": 2}.items()
}
LABELS = {"probability_a": 0.1 + 0.2, "label_a": 1}
LINE = {"case_id": "one", "slice_index": 4}
EMPTY = {**{name: 0 for name in MASKS}, "probability_a": 1 / 3, "label_a": None}
OF_ROWS = {"case_id": ["one", "one"], "slice_index": [4, 5]}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("columns", [MASKS.keys(), LABELS.keys(), {**MASKS, **LABELS}.keys()])
def test_lines_of_cases_are_read_to_the_last_digit_whatever_the_task(kind, columns, tmp_path):
    lines = [{**LINE, **MASKS, **LABELS}, {**LINE, "slice_index": 5, **EMPTY}]
    table = Dataset.from_list([{name: line[name] for name in (*LINE, *columns)} for line in lines])
    getattr(table, f"to_{kind}")(str(tmp_path / f"per_case.{kind}"))
    rows = read_per_case(tmp_path, CLASSES, OF_ROWS)
    if "tp_lesion" in columns:
        assert [part.tolist() for part in rows.counts] == [[[n, n], [0, 0]] for n in (3, 1, 0, 2)]
    else:
        assert rows.counts is None
    if "label_a" in columns:
        assert rows.probabilities.tolist() == [[0.1 + 0.2], [1 / 3]]
        assert rows.class_labels.tolist() == [[1], [-100]]
    else:
        assert rows.probabilities is None and rows.class_labels is None
    assert rows.annotated.tolist() == [True, False]
    joined = ScoredRows.join([rows, rows])
    assert joined.annotated.tolist() == [True, False] * 2
    assert (joined.counts is None) == (rows.counts is None) and joined.pixel_volumes is None
    with pytest.raises(BadInputError, match="other rows than were tested"):
        read_per_case(tmp_path, CLASSES, {**OF_ROWS, "slice_index": [5, 4]})
    with pytest.raises(BadInputError, match=r"has no per_case\.csv or per_case\.parquet"):
        read_per_case(tmp_path / "nowhere", CLASSES, OF_ROWS)
