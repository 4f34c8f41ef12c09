"""scripts/train_seeds.py: mean and deviation worked out by hand, tables, and runs that are skipped, resumed or fail."""

import inspect
import json
import sys

import pytest
from prepared_data import prepared_dataset
from small_model import ARCHITECTURE

from modeling_resformer.commands import train_seeds
from modeling_resformer.errors import BadInputError
from modeling_resformer.training.seeds import Style, latex_tables, markdown_tables, summarise_seeds


def score(value):
    return {"value": value, "low": None, "high": None, "n": 4}


def fake_run(folder, seed, dice, vendor_dice, images=10, learning_rate=0.1):
    """What train.py would leave, with three scores."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "dice": score(dice),
        "dice_background": score(0.99),
        "dice_lesion_spot": score(dice),
        "dice_present": score(None),
        "auc": score(dice / 2),
        "auc_a": score(dice / 2),
        "auc_b": score(None if seed == 1 else 0.5),
        "auc_a+b": score(0.5),
    }
    group = {"images": 5, "cases": 2, "model": {**model, "dice_lesion_spot": score(vendor_dice)}, "baselines": {}}
    results = {
        "split": "test",
        "images": images,
        "cases": 4,
        "model": model,
        "group_by": "vendor",
        "groups": {"Cirrus": group},
    }
    record = {
        "task": "multi_task",
        "settings": {"learning_rate": learning_rate, "seed": seed},
        "code": {"commit": "abc"},
        "dataset": {"fingerprint": "f"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def runs(tmp_path):
    values = {0: 0.80, 1: 0.82, 2: 0.87}
    return {seed: fake_run(tmp_path / f"seed_{seed}", seed, value, value - 0.1) for seed, value in values.items()}


def test_mean_and_deviation_worked_out_by_hand(runs):
    """0.80, 0.82, 0.87: mean 0.83; deviations -.03, -.01, .04 give (.0009 + .0001 + .0016) / 2 = .0013."""
    summary = summarise_seeds(runs, failed=[3])
    assert summary["model"]["dice"] == {
        "mean": pytest.approx(0.83),
        "std": pytest.approx(0.0013**0.5),
        "n": 3,
        "values": {"0": 0.80, "1": 0.82, "2": 0.87},
    }
    assert summary["groups"]["Cirrus"]["dice_lesion_spot"]["mean"] == pytest.approx(0.73)
    assert (summary["model"]["auc_b"]["mean"], summary["model"]["auc_b"]["std"]) == (0.5, 0)
    assert summary["model"]["auc_b"]["n"] == 2
    assert summary["model"]["dice_present"] == {
        "mean": None,
        "std": None,
        "n": 0,
        "values": {"0": None, "1": None, "2": None},
    }
    assert (summary["seeds"], summary["failed"], summary["settings"]) == ([0, 1, 2], [3], {"learning_rate": 0.1})
    assert summarise_seeds({0: runs[0]})["model"]["dice"]["std"] is None


def test_the_markdown_table_has_a_row_for_every_vendor_and_class(runs):
    text = markdown_tables(summarise_seeds(runs, failed=[3]), Style())
    assert "over 3 seeds (0, 1, 2; failed: 3), percent, 10 test images of 4 cases" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["vendor", "class", "Dice"]
    assert ["all", "lesion_spot", "83.0 ± 3.6"] in rows
    assert ["Cirrus", "lesion_spot", "73.0 ± 3.6"] in rows
    # Two image-level classes have a mean; (0.40, 0.41, 0.435): mean 0.415, deviation half of that above.
    assert ["all", "mean", "41.5 ± 1.8"] in rows
    assert ["all", "b", "50.0 ± 0.0"] in rows
    assert not any("a+b" in row for row in rows)
    assert "0.830 ± 0.036" in markdown_tables(summarise_seeds(runs), Style(percent=False))


def test_the_latex_table_uses_booktabs_and_escapes_names(runs):
    text = latex_tables(summarise_seeds(runs), Style())
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2
    assert r"all & lesion\_spot & $83.0 \pm 3.6$ \\" in text
    assert r"\begin{tabular}{llr}" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learning_rate": 0.2}, "differ in learning_rate"), ({"images": 9}, "differ in images")],
)
def test_runs_that_differ_in_more_than_the_seed_are_refused(runs, change, message):
    fake_run(runs[1], 1, 0.82, 0.72, **change)
    with pytest.raises(BadInputError, match=message):
        summarise_seeds(runs)


# Stands in for `python` or `accelerate launch`: notes its arguments, fails for seed 1 the first time.
LAUNCHER = """
import json, sys
from pathlib import Path
{functions}
arguments = sys.argv[1:]
seed = int(arguments[arguments.index("--seed") + 1])
folder = Path(arguments[arguments.index("--output_dir") + 1])
log = Path({log!r})
first = not log.exists() or all(json.loads(line)[-5] != "1" for line in log.read_text().splitlines())
with open(log, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
if seed == 1 and first:
    sys.exit(3)
fake_run(folder, seed, 0.8 + seed / 100, 0.7)
"""


def test_a_failing_seed_is_named_the_others_go_on_and_the_same_command_tries_it_again(tmp_path, capsys):
    log, launcher = tmp_path / "log", tmp_path / "launcher.py"
    functions = inspect.getsource(score) + inspect.getsource(fake_run)
    launcher.write_text(LAUNCHER.format(functions=functions, log=str(log)))
    output = tmp_path / "runs"
    command = ["--seeds", "0", "1", "2", "--output_dir", str(output), "--launcher", f"{sys.executable} {launcher}"]
    command += ["recipe.json", "--dataset", "data", "--bf16"]
    assert train_seeds.main(command) == 1
    assert "seed 1 failed" in capsys.readouterr().err
    summary = json.loads((output / "seeds.json").read_text())
    assert (summary["seeds"], summary["failed"]) == ([0, 2], [1])
    assert summary["model"]["dice"]["mean"] == pytest.approx(0.81)
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert calls[0] == [
        *("-m", "modeling_resformer.commands.train", "recipe.json", "--dataset", "data", "--bf16"),
        *("--seed", "0", "--output_dir", str(output / "seed_0"), "--resume_from_checkpoint", "true"),
    ]
    assert train_seeds.main(command) == 0
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [call[call.index("--seed") + 1] for call in calls] == ["0", "1", "2", "1"]
    assert json.loads((output / "seeds.json").read_text())["seeds"] == [0, 1, 2]
    assert (output / "seeds.md").read_text() in capsys.readouterr().out
    assert {path.name for path in output.iterdir() if path.is_file()} == {"seeds.json", "seeds.md", "seeds.tex"}


def test_the_seed_is_given_in_one_place(capsys):
    with pytest.raises(SystemExit):
        train_seeds.main(["--seeds", "0", "--output_dir", "out", "--seed", "3"])
    assert "--seed is given by --seeds" in capsys.readouterr().err


@pytest.mark.slow
def test_two_seeds_of_a_real_run(tmp_path):
    prepared_dataset(train=4, validation=4, test=4).save_to_disk(str(tmp_path / "dataset"))
    flags = ["--dataset", str(tmp_path / "dataset"), "--config", json.dumps(ARCHITECTURE), "--image_size", "32"]
    flags += ["--num_train_epochs", "1", "--bootstrap_samples", "0", "--use_cpu", "--disable_tqdm", "True"]
    assert train_seeds.main(["--seeds", "0", "1", "--output_dir", str(tmp_path / "runs"), *flags]) == 0
    summary = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    each = [json.loads((tmp_path / "runs" / f"seed_{seed}" / "results.json").read_text()) for seed in (0, 1)]
    values = [results["model"]["dice"]["value"] for results in each]
    assert values[0] != values[1]
    assert summary["model"]["dice"]["mean"] == pytest.approx(sum(values) / 2)
