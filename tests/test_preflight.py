"""What a run will cost, worked out by hand from measurements, and runs that do not fit."""

import json
import logging
import random
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from prepared_data import prepared_dataset
from small_model import ARCHITECTURE
from small_trainer import make_trainer
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from modeling_resformer.commands import train
from modeling_resformer.training import preflight
from modeling_resformer.training.image_cost import Stage, Workload
from modeling_resformer.training.preflight import (
    Estimate,
    Measurement,
    Plan,
    evaluations,
    free_memory,
    group_memory,
    scale,
    shortage,
)


MB = 10**6
# A million parameters: 4 MB of weights, 16 MB with gradients and moments.
PLAN = Plan(
    batch=5,
    evaluation_batch=2,
    accumulation=1,
    images=100,
    epochs=10,
    training_images=1000,
    evaluated_images=100,
    local_processes=1,
    parameters=MB,
    averaged=False,
    pixels=100,
    width=8,
    workers=0,
    data_seconds=0.01,
)
STAGES = [
    Stage("start", 0.0, 300 * MB),
    Stage("forward", 0.5, 314 * MB),
    Stage("step", 2.0, 400 * MB),
    Stage("step_of_two", 3.0, 470 * MB),
]


def test_costs_are_scaled_to_batch_and_length():
    """One image takes 2 s and each further one of the batch 1 s: 200 batches of five take 6 s each."""
    estimate = scale(PLAN, STAGES)
    assert estimate.seconds == pytest.approx(200 * 6 + 100 * 0.5 + 1100 * 0.01)
    # 100 MB for the first image, 70 for each other; the 4 MB of weights are there already.
    assert estimate.memory == (100 + 4 * 70 - 4) * MB
    assert estimate.one_image == (100 - 4) * MB


@pytest.mark.parametrize(
    ("changes", "megabytes"),
    [
        ({"local_processes": 2}, 2 * (100 + 4 * 70 - 4)),
        ({"averaged": True}, 100 + 4 * 70),
        # An evaluation keeps 10 MB an image beside the 16 of the training.
        ({"evaluation_batch": 100}, 16 + 100 * 10 - 4),
    ],
)
def test_all_processes_averaged_weights_and_evaluations_count(changes, megabytes):
    assert scale(replace(PLAN, **changes), STAGES).memory == megabytes * MB


def test_workers_read_while_the_network_computes():
    slow = replace(PLAN, data_seconds=4.0)
    assert scale(slow, STAGES).seconds == pytest.approx(200 * 6 + 50 + 1100 * 4)
    assert scale(replace(slow, workers=2), STAGES).seconds == pytest.approx(1100 * 4 / 2 + 50)


def test_without_a_step_of_two_the_first_image_counts_for_all():
    assert scale(PLAN, STAGES[:3]).memory == (100 + 4 * (100 - 16) - 4) * MB
    assert scale(PLAN, STAGES[:2]) == Estimate(None, None)


@pytest.mark.parametrize(
    ("strategy", "steps", "expected"), [("no", None, 0), ("epoch", None, 6), ("steps", 4, 15), ("steps", 0.25, 4)]
)
def test_evaluations_are_counted(strategy, steps, expected):
    """Six epochs of ten steps."""
    assert evaluations(IntervalStrategy(strategy), steps, 6, 10) == expected


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_limit_of_a_control_group_counts(tmp_path):
    """Version 2: a limit above this process's own group, which has none; what the page cache holds can be had back."""
    write(tmp_path / "proc/self", cgroup="0::/user/job\n")
    top = tmp_path / "sys/fs/cgroup"
    write(top / "user", memory__max="1000\n", memory__current="700\n", memory__stat="anon 500\ninactive_file 150\n")
    write(top / "user/job", memory__max="max\n", memory__current="700\n", memory__stat="inactive_file 150\n")
    assert group_memory(tmp_path) == [450]
    assert free_memory(tmp_path) == 450


def test_the_older_control_groups_count_too(tmp_path):
    """In a container the named path is the host's, and the files lie at the top."""
    write(tmp_path / "proc/self", cgroup="9:cpu:/x\n4:memory:/docker/abc\n")
    top = tmp_path / "sys/fs/cgroup/memory"
    write(top, memory__limit_in_bytes="900", memory__usage_in_bytes="600", memory__stat="total_inactive_file 100\n")
    assert group_memory(tmp_path) == [400]


def test_without_control_groups_the_machine_counts(tmp_path):
    assert group_memory(tmp_path) == []
    assert free_memory(tmp_path) > 2**20


def test_what_does_not_fit_is_said_with_a_batch_that_would():
    """96 MB for one image and 70 for each other: nine tenths of 200 - 96 MB take one more, but five has no half."""
    whole, killed = Measurement(STAGES), Measurement(STAGES[:2], "status -9", short_of_memory=True)
    said = shortage(PLAN, scale(PLAN, STAGES), whole, 200 * MB)
    assert "\n" not in said
    for cure in (
        "--per_device_train_batch_size 1 with --gradient_accumulation_steps 5",
        "--image_size",
        "--gradient_checkpointing",
        "scripts/recipes/small_cpu.json",
        "--yes goes on",
    ):
        assert cure in said
    assert shortage(PLAN, scale(PLAN, STAGES), whole, 400 * MB) is None
    assert "One image is too much" in shortage(PLAN, scale(PLAN, STAGES[:2]), killed, 400 * MB)
    # What failed for another reason may still fit, and so may what cannot be measured.
    failed = Measurement(STAGES[:2], "ValueError: odd")
    assert shortage(PLAN, scale(PLAN, STAGES[:2]), failed, 1) is None
    unmeasured = [replace(stage, peak=None) for stage in STAGES]
    assert shortage(PLAN, scale(PLAN, unmeasured), Measurement(unmeasured), 1) is None


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    prepared_dataset(train=4, validation=2, test=2).save_to_disk(str(folder / "dataset"))
    flags = ["--dataset", str(folder / "dataset"), "--config", json.dumps(ARCHITECTURE), "--image_size", "32"]
    flags += ["--per_device_train_batch_size", "4", "--num_train_epochs", "1", "--bootstrap_samples", "0"]
    return [*flags, "--use_cpu", "--cpu_threads", "1"]


@pytest.mark.long
def test_a_run_that_does_not_fit_is_refused_in_one_line_before_its_first_step(flags, tmp_path, capsys, monkeypatch):
    """The measurement itself is a real one, in a process of its own."""
    monkeypatch.setattr(preflight, "free_memory", lambda: 2**20)
    output = tmp_path / "new" / "run"
    assert train.main([*flags, "--output_dir", str(output)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert not output.parent.exists()
    assert len(errors) == 1
    assert "of memory beyond what it has" in errors[0]
    assert "--yes goes on regardless" in errors[0]


def test_yes_goes_on(flags, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(preflight, "free_memory", lambda: 2**20)
    monkeypatch.setattr(preflight, "run_measurement", lambda workload: Measurement(STAGES))
    with caplog.at_level(logging.INFO):
        assert train.main([*flags, "--output_dir", str(tmp_path), "--yes"]) == 0
    assert (tmp_path / "results.json").is_file()
    assert "Expected: about" in caplog.text
    assert "--yes goes on regardless" in caplog.text
    assert "yes" not in json.loads((tmp_path / "run.json").read_text())["settings"]


def test_a_small_run_is_told_its_time_without_a_process_of_its_own(flags, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(preflight, "run_measurement", None)
    monkeypatch.setattr(preflight, "free_memory", lambda: 2**30)
    with caplog.at_level(logging.INFO):
        assert train.main([*flags, "--output_dir", str(tmp_path), "--max_steps", "1"]) == 0
    told = [line for line in caplog.messages if line.startswith("Expected: ")]
    assert len(told) == 1
    assert re.fullmatch(
        r"Expected: about \d+ s for 4 images x 1 epoch; memory is no matter \(1\.0 GiB free\)\.", told[0]
    )


def test_measuring_here_changes_neither_model_nor_random_numbers(tmp_path):
    trainer = make_trainer(prepared_dataset(), tmp_path)
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    preflight.check_resources(trainer, go_on=False, free=2**40)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (str(np.random.get_state()), random.getstate()) == states[1:]
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert trainer.model.training
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_the_batch_that_is_proposed_divides_the_one_that_was_asked_for():
    """50 MB for one image and 10 for each other: nine tenths of the 60 MB left take 5 more, 6 in all. 4 divides 8."""
    estimate = Estimate(seconds=1.0, memory=120 * MB, one_image=50 * MB)
    plan = replace(PLAN, batch=8, accumulation=3)
    said = shortage(plan, estimate, Measurement(STAGES), 110 * MB)
    assert "--per_device_train_batch_size 4 with --gradient_accumulation_steps 6" in said


def test_a_large_run_is_told_as_images_and_epochs(tmp_path, monkeypatch, caplog):
    trainer = make_trainer(prepared_dataset(), tmp_path, num_train_epochs=1000)
    monkeypatch.setattr(preflight, "is_small", lambda *given: False)
    monkeypatch.setattr(preflight, "run_measurement", lambda workload: Measurement(STAGES))
    with caplog.at_level(logging.INFO):
        preflight.check_resources(trainer, go_on=False, free=2**40)
    assert " for 8 images x 1000 epochs; 0." in caplog.text


def test_a_run_of_days_on_a_cpu_is_warned_of_and_goes_on(tmp_path, monkeypatch, caplog):
    trainer = make_trainer(prepared_dataset(), tmp_path, num_train_epochs=1000)
    slow = [replace(stage, seconds=100 * stage.seconds) for stage in STAGES]
    monkeypatch.setattr(preflight, "is_small", lambda *given: False)
    monkeypatch.setattr(preflight, "run_measurement", lambda workload: Measurement(slow))
    with caplog.at_level(logging.INFO):
        preflight.check_resources(trainer, go_on=False, free=10**12)
    # 1000 epochs of two batches of four: 2000 x (200 + 3 x 100) s are 278 h.
    assert "On a CPU this run takes about 278 h. scripts/recipes/small_cpu.json" in caplog.text


def test_one_process_of_a_machine_measures_for_all(tmp_path, monkeypatch):
    trainer = make_trainer(prepared_dataset(), tmp_path)
    monkeypatch.setattr(preflight, "make_plan", None)
    monkeypatch.setattr(TrainingArguments, "local_process_index", 1)
    preflight.check_resources(trainer, go_on=False, free=1)


@pytest.mark.parametrize(
    ("status", "words", "short"),
    [
        (-9, "", True),
        (1, "RuntimeError: not enough memory: you tried to allocate 9 bytes.", True),
        (1, "torch.OutOfMemoryError: CUDA out of memory.", True),
        (1, "ValueError: odd", False),
    ],
)
def test_a_measurement_that_ends_early_tells_what_it_lived_to_see(status, words, short, monkeypatch):
    def end(command, **settings):
        text = "".join(json.dumps(vars(stage)) + "\n" for stage in STAGES[:2])
        return subprocess.CompletedProcess(command, status, text, f"Traceback\n{words}\n" if words else "")

    monkeypatch.setattr(subprocess, "run", end)
    found = preflight.run_measurement(Workload("multi_task", {}, (32, 32), "cpu", 1))
    assert (found.stages, found.short_of_memory) == (STAGES[:2], short)
    assert found.problem
