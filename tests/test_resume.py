"""A run that was killed and resumed ends like one that was never killed; and what else can go wrong on the way."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prepared_data import prepared_dataset
from safetensors.torch import load_file
from small_model import ARCHITECTURE
from small_trainer import make_trainer
from transformers import Trainer

from modeling_resformer.commands import train
from modeling_resformer.training.checkpoints import checkpoints_in, problem_of
from modeling_resformer.training.resuming import ResumableTrainer
from modeling_resformer.training.trainer import ResFormerTrainer


HELPERS = Path(__file__).parent / "helpers"


# Ten rows are five batches, and these three steps an epoch. Dropout and stochastic depth draw random numbers in the
# model, augmentation where the rows are read.
RECIPE = {
    "config": {**ARCHITECTURE, "drop_path_rate": 0.3, "hidden_dropout_prob": 0.1},
    "image_size": 32,
    "num_train_epochs": 3,
    "learning_rate": 0.005,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "ema_decay": 0.9,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 4,
    "bootstrap_samples": 0,
    "seed": 0,
    "use_cpu": True,
    "cpu_threads": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
RESUME = ("--resume_from_checkpoint", "true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the dataset, the recipe, the runs and what they said."""
    folder = tmp_path_factory.mktemp("resume")
    prepared_dataset(train=10, validation=4, test=4).save_to_disk(str(folder / "dataset"))
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    return folder


def flags_of(folder, name, *flags):
    places = ("--dataset", str(folder / "dataset"), "--output_dir", str(folder / name))
    return [str(folder / "recipe.json"), *places, *flags]


def run_all(folder, *runs):
    """Exit codes of runs (name, flags, further settings of killed_runs.py); what each said is in log_0, log_1, ..."""
    settings = [
        {"flags": flags_of(folder, name, *flags), "log": str(folder / f"log_{i}"), **more}
        for i, (name, flags, more) in enumerate(runs)
    ]
    command = [sys.executable, str(HELPERS / "killed_runs.py"), json.dumps(settings)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)


@pytest.fixture(scope="module")
def logs(folder):
    """A run never killed, and one that everything happens to, one start after the other."""
    last = folder / "killed" / "checkpoint-9" / "optimizer.pt"
    codes = run_all(
        folder,
        ("whole", (), {}),
        ("killed", (), {"kill": {"step": 5}}),
        ("killed", RESUME, {"kill": {"file": "checkpoint-8/raw_weights.pt"}}),
        ("killed", RESUME, {"largest_file": 2**16, "keep": str(folder / "disk_full")}),
        ("killed", RESUME, {"kill": {"file": "model/training_args.bin"}}),
        ("killed", RESUME, {"keep": str(folder / "finished")}),
        ("killed", RESUME, {"truncate": str(last)}),
    )
    assert codes == [0, -9, -9, 1, -9, 0, 0]
    return [(folder / f"log_{i}").read_text() for i in range(len(codes))]


def what_is_left(run):
    """Weights, results and learning curve, without the seconds."""
    state = json.loads((run / "trainer_state.json").read_text())
    history = [
        {name: value for name, value in line.items() if not name.endswith(("_time", "runtime", "_per_second"))}
        for line in state["log_history"]
    ]
    return {
        "weights": (run / "model.safetensors").read_bytes(),
        "results": json.loads((run / "results.json").read_text()),
        "per_case": (run / "per_case.csv").read_text(),
        "history": history,
        "best": (state["best_global_step"], state["best_metric"], Path(state["best_model_checkpoint"]).name),
    }


@pytest.mark.long
def test_a_killed_run_ends_like_one_never_killed(folder, logs):
    """Killed in the middle of an epoch, of writing a checkpoint, and of saving the model; bit for bit."""
    whole, resumed = what_is_left(folder / "whole"), what_is_left(folder / "finished")
    for part in whole:
        assert whole[part] == resumed[part], part
    assert [line["step"] for line in resumed["history"] if "loss" in line] == [4, 8]
    for log, start in zip(logs[2:6], (4, 6, 6, 9), strict=True):
        assert f"going on from checkpoint-{start}" in log
    assert not (folder / "finished" / ".unfinished").exists()


@pytest.mark.long
def test_a_broken_checkpoint_is_passed_over_with_a_word(folder, logs):
    assert "checkpoint-9 is passed over: optimizer.pt has" in logs[6]
    assert "going on from checkpoint-8" in logs[6]
    assert what_is_left(folder / "killed")["weights"] == what_is_left(folder / "whole")["weights"]
    assert [problem_of(checkpoint) for checkpoint in checkpoints_in(folder / "killed")] == [None, None]


@pytest.mark.long
def test_a_disk_that_is_full_ends_in_one_line_and_earlier_checkpoints_are_whole(folder, logs):
    """Files larger than 64 KiB cannot be written."""
    error = logs[3].splitlines()[-1]
    assert error.startswith("error: ") and "Traceback" not in logs[3]
    assert str(folder / "killed") in error and "checkpoint-8 cannot be written" in error
    assert "Make room" in error and "--resume_from_checkpoint true from checkpoint-6, which is whole" in error
    held = checkpoints_in(folder / "disk_full")
    assert held[-1].name == "checkpoint-6"
    assert [problem_of(checkpoint, to_resume=True) for checkpoint in held] == [None, None]
    assert not (folder / "disk_full" / ".unfinished").exists()


@pytest.mark.long
def test_checkpoints_of_an_earlier_run_are_not_mixed_with_new_ones(folder, logs, capsys):
    assert train.main(flags_of(folder, "whole")) == 1
    error = capsys.readouterr().err
    assert "holds checkpoint-9 of an earlier run" in error and "--resume_from_checkpoint true" in error


@pytest.mark.long
def test_settings_that_would_break_a_resumed_run_are_named(folder, logs, capsys):
    changed = ("--seed", "7", "--per_device_train_batch_size", "4", "--config", '{"window_size": 8}')
    assert train.main(flags_of(folder, "whole", *RESUME, *changed)) == 1
    error = capsys.readouterr().err
    for part in ("config window_size 8 instead of 4", "seed 7 instead of 0", "images a step", "8 instead of 4"):
        assert part in error
    assert "by --model " in error


def test_a_misspelt_metric_ends_before_the_first_step_and_lists_the_names(folder, capsys):
    assert train.main(flags_of(folder, "misspelt", "--metric_for_best_model", "jacard")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"error: --metric_for_best_model is 'jacard'.*expected one of .*\bauc,.* jaccard,", error)
    assert "runtime" not in error
    assert not checkpoints_in(folder / "misspelt")


def test_a_run_at_its_end_takes_no_further_step(tmp_path):
    """In the middle of an epoch, where the Trainer alone would begin another step."""
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 3}
    dataset = prepared_dataset(train=8, validation=2, test=2)
    first = make_trainer(dataset, tmp_path, **settings)
    first.train()
    again = make_trainer(dataset, tmp_path, **settings)
    again.train(True)
    assert again.state.global_step == first.state.global_step == 3
    assert again.state.num_train_epochs == first.state.num_train_epochs == 1
    assert again.state.log_history[-1]["train_loss"] == first.state.log_history[-1]["train_loss"]
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_nothing_private_of_the_trainer_is_overridden():
    """Such names change from release to release without a word."""
    private = {name for name in dir(Trainer) if name.startswith("_") and not name.startswith("__")}
    for own in (ResFormerTrainer, ResumableTrainer):
        assert not private & set(vars(own))


WORKER = """
import os, sys
import killed_runs
if os.environ["RANK"] == "1" and {step} is not None:
    killed_runs.die_before_step({step})
sys.exit(killed_runs.train.main({flags!r}))
"""


def run_on_two_processes(folder, name, *flags, step=None):
    """The exit code; the second process dies before a step, if one is given, and the launcher ends the first."""
    flags = flags_of(folder, name, "--ddp_backend", "gloo", *flags)
    script = folder / "worker.py"
    script.write_text(WORKER.format(step=step, flags=flags))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [sys.executable, *launch, str(script)],
        env={**os.environ, "PYTHONPATH": str(HELPERS)},
        capture_output=True,
        timeout=500,
    ).returncode


@pytest.mark.slow
def test_two_processes_resume_to_the_same_weights(folder):
    """To 1e-6; in the middle of the second epoch, whose order of rows must be its own on both processes."""
    recipe = ("--gradient_accumulation_steps", "1", "--num_train_epochs", "4")
    assert run_on_two_processes(folder, "two", *recipe) == 0
    assert run_on_two_processes(folder, "two_killed", *recipe, step=5) != 0
    assert [checkpoint.name for checkpoint in checkpoints_in(folder / "two_killed")][-1] == "checkpoint-4"
    assert run_on_two_processes(folder, "two_killed", *recipe, *RESUME) == 0
    whole, resumed = (load_file(folder / name / "model.safetensors") for name in ("two", "two_killed"))
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=1e-6)
    assert what_is_left(folder / "two")["best"][0] == what_is_left(folder / "two_killed")["best"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--gradient_accumulation_steps", "1", "--dataloader_num_workers", "2"),
        ("--dataloader_num_workers", "2", "--dataloader_persistent_workers", "True"),
        ("--eval_strategy", "epoch", "--save_strategy", "epoch", "--early_stopping_patience", "1"),
        ("--save_strategy", "best", "--save_total_limit", "1", "--metric_for_best_model", "jaccard"),
        ("--eval_strategy", "epoch", "--save_steps", "1", "--load_best_model_at_end", "False"),
    ],
    ids=["workers", "persistent_workers", "early_stopping", "save_best", "last_weights"],
)
def test_other_settings_resume_as_exactly(folder, flags):
    for name in ("whole_2", "killed_2"):
        shutil.rmtree(folder / name, ignore_errors=True)
    codes = run_all(
        folder,
        ("whole_2", flags, {}),
        ("killed_2", flags, {"kill": {"step": 4}}),
        ("killed_2", (*flags, *RESUME), {"kill": {"step": 7}}),
        ("killed_2", (*flags, *RESUME), {}),
        ("killed_2", (*flags, *RESUME), {}),
    )
    assert set(codes) <= {0, -9} and codes[0] == codes[-1] == 0
    for part, expected in what_is_left(folder / "whole_2").items():
        assert what_is_left(folder / "killed_2")[part] == expected, part
