"""Folders of checkpoints: which are whole, which is gone on from, which are deleted, and what a full disk says."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling_resformer.errors import BadInputError, CheckpointWriteError
from modeling_resformer.training.checkpoints import (
    UNFINISHED,
    check_settings,
    checkpoints_in,
    choose_checkpoint,
    clean_up,
    let_appear,
    named_checkpoint_failure,
    problem_of,
    record_files,
    rotate,
)


SETTINGS = {"fixed": {"seed": 0}, "noted": {"processes": 1}}


def save(run, steps, resumable=True):
    """A small checkpoint, the way a run leaves one."""
    unfinished = run / UNFINISHED / f"checkpoint-{steps}"
    unfinished.mkdir(parents=True)
    save_file({"weight": torch.full((64,), float(steps))}, unfinished / "model.safetensors")
    torch.save({"step": steps}, unfinished / "optimizer.pt")
    (unfinished / "trainer_state.json").write_text(json.dumps({"global_step": steps}))
    (unfinished / "config.json").write_text("{}")
    record_files(unfinished, SETTINGS, resumable)
    let_appear(unfinished, run / f"checkpoint-{steps}")
    return run / f"checkpoint-{steps}"


def names(run):
    return [checkpoint.name for checkpoint in checkpoints_in(run)]


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def zero(path):
    """Same size, other content, as a machine that lost its power may leave a file."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
@pytest.mark.parametrize(
    ("spoil", "reason"), [(cut, "bytes instead of"), (zero, "checksum differs"), (os.remove, "is missing")]
)
def test_a_spoilt_file_is_named(tmp_path, name, spoil, reason):
    checkpoint = save(tmp_path, 2)
    assert problem_of(checkpoint, to_resume=True) is None
    spoil(checkpoint / name)
    assert name in problem_of(checkpoint)
    assert reason in problem_of(checkpoint)


@pytest.mark.parametrize("spoil", [cut, os.remove])
@pytest.mark.parametrize("name", ["trainer_state.json", "manifest.json"])
def test_a_spoilt_json_file_is_named(tmp_path, name, spoil):
    checkpoint = save(tmp_path, 2)
    text = (checkpoint / name).read_text().rstrip()
    (checkpoint / name).write_text(text)
    spoil(checkpoint / name)
    assert name in problem_of(checkpoint)


def test_thresholds_may_be_written_into_a_config(tmp_path):
    checkpoint = save(tmp_path, 2)
    (checkpoint / "config.json").write_text('{"classification_thresholds": [0.4]}')
    assert problem_of(checkpoint) is None


def test_the_newest_whole_one_is_gone_on_from(tmp_path, caplog):
    for steps in (9, 10, 8):
        save(tmp_path, steps)
    save(tmp_path, 11, resumable=False)
    cut(tmp_path / "checkpoint-10" / "optimizer.pt")
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert choose_checkpoint("true", tmp_path) == tmp_path / "checkpoint-9"
    passed_over = [record.getMessage() for record in caplog.records]
    assert [message.split()[0].split("/")[-1] for message in passed_over] == [f"checkpoint-{n}" for n in (12, 11, 10)]
    assert (
        "no manifest.json" in passed_over[0] and "model alone" in passed_over[1] and "optimizer.pt" in passed_over[2]
    )
    assert all("\n" not in message for message in passed_over)


@pytest.mark.parametrize("nothing", [None, "", "false", "None"])
def test_without_checkpoints_a_run_starts_afresh(tmp_path, nothing):
    assert choose_checkpoint(nothing, tmp_path) is None
    assert choose_checkpoint("True", tmp_path) is None
    save(tmp_path, 3)
    with pytest.raises(BadInputError, match="holds checkpoint-3 of an earlier run"):
        choose_checkpoint(nothing, tmp_path)


def test_one_of_several_can_be_named_but_not_so_that_runs_mix(tmp_path):
    first, second = save(tmp_path, 3), save(tmp_path, 6)
    assert choose_checkpoint(str(second), tmp_path) == second
    assert choose_checkpoint(str(first), tmp_path / "other") == first
    with pytest.raises(BadInputError, match="checkpoint-6, which would mix"):
        choose_checkpoint(str(first), tmp_path)
    cut(second / "optimizer.pt")
    with pytest.raises(BadInputError, match=r"optimizer\.pt has"):
        choose_checkpoint(str(second), tmp_path)
    with pytest.raises(BadInputError, match="no such folder"):
        choose_checkpoint(str(tmp_path / "checkpoint-7"), tmp_path)


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [(None, 1, [1, 2, 3, 4]), (1, 4, [4]), (1, 2, [2, 4]), (2, 2, [2, 4]), (2, 4, [3, 4]), (3, 1, [1, 3, 4])],
)
def test_the_best_and_the_newest_are_never_deleted(tmp_path, limit, best, left):
    for steps in (1, 2, 3, 4):
        save(tmp_path, steps)
    rotate(tmp_path, limit, tmp_path / "checkpoint-4", tmp_path / f"checkpoint-{best}")
    assert names(tmp_path) == [f"checkpoint-{steps}" for steps in left]
    assert all(problem_of(checkpoint) is None for checkpoint in checkpoints_in(tmp_path))


def test_the_best_is_known_by_any_path_to_it(tmp_path, monkeypatch):
    for steps in (1, 2, 3):
        save(tmp_path, steps)
    monkeypatch.chdir(tmp_path.parent)
    run = Path(tmp_path.name)
    rotate(run, 2, run / "checkpoint-3", tmp_path / "checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_broken_ones_that_were_passed_over_go_first(tmp_path):
    for steps in (1, 2, 3, 5):
        save(tmp_path, steps)
    cut(tmp_path / "checkpoint-5" / "optimizer.pt")
    rotate(tmp_path, 2, tmp_path / "checkpoint-3", None)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_an_earlier_one_of_the_same_name_is_replaced(tmp_path):
    save(tmp_path, 2)
    cut(tmp_path / "checkpoint-2" / "optimizer.pt")
    assert problem_of(save(tmp_path, 2)) is None


def test_settings_are_compared(tmp_path):
    checkpoint = save(tmp_path, 2)
    assert check_settings(checkpoint, SETTINGS) == []
    assert check_settings(checkpoint, {**SETTINGS, "noted": {"processes": 2}}) == ["processes 2 instead of 1"]
    with pytest.raises(BadInputError, match=r"checkpoint-2 cannot be resumed with seed 1 instead of 0\."):
        check_settings(checkpoint, {**SETTINGS, "fixed": {"seed": 1}})


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"),
    ],
    ids=["system", "torch"],
)
def test_a_full_disk_ends_in_one_line_with_the_cure(tmp_path, error):
    save(tmp_path, 2)
    (tmp_path / UNFINISHED / "checkpoint-4").mkdir(parents=True)
    with pytest.raises(CheckpointWriteError) as caught, named_checkpoint_failure("checkpoint-4", tmp_path):
        raise error
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: checkpoint-4 cannot be written (")
    assert "MB are free" in message and "from checkpoint-2, which is whole" in message
    assert "\n" not in message
    assert not (tmp_path / UNFINISHED).exists()


def test_other_errors_pass(tmp_path):
    for error in (RuntimeError("CUDA out of memory"), FileNotFoundError(errno.ENOENT, "No such file")):
        with pytest.raises(type(error)), named_checkpoint_failure("checkpoint-4", tmp_path):
            raise error


def test_what_a_killed_run_left_is_cleaned_up(tmp_path):
    (tmp_path / UNFINISHED / "checkpoint-4").mkdir(parents=True)
    save(tmp_path, 2)
    clean_up(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint-2"]
