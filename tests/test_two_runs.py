"""Two runs into one folder, and what killed runs left behind."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest
from run_here import run_command

from modeling_resformer.errors import BadInputError
from modeling_resformer.files import exchanged, finished_folder, hold, scratch_folder
from modeling_resformer.publishing.after_training import take_push


pytest.importorskip("fcntl")

HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
)


@contextmanager
def held_by_another(lock):
    """A lock that a process has which, as it were, writes the folder."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    try:
        yield process
    finally:
        process.communicate()


def test_the_second_run_is_refused_in_one_line(tmp_path, model, capsys, caplog):
    output = tmp_path / "out"
    commands = {
        "prepare_folder": ["--source", tmp_path, "--output", output],
        "predict": ["--model", model, tmp_path, "--output", output],
        "train": ["--dataset", tmp_path, "--output_dir", output, "--use_cpu"],
        "evaluate": ["--model", model, "--dataset", tmp_path, "--output", output],
    }
    with held_by_another(tmp_path / ".out.lock"):
        for name, arguments in commands.items():
            caplog.clear()
            assert run_command(name, *arguments) == 1
            said = [*capsys.readouterr().err.splitlines(), *caplog.messages]
            (line,) = [line for line in said if "another run is writing there" in line]
            assert str(output) in line
        assert not output.exists()
    assert run_command("prepare_folder", *commands["prepare_folder"]) == 1
    assert "another run" not in capsys.readouterr().err
    assert not (tmp_path / ".out.lock").exists()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    with held_by_another(tmp_path / "lock") as process:
        assert hold(tmp_path / "lock") is None
        process.kill()
        process.wait()
        held = hold(tmp_path / "lock")
        assert held is not None
        os.close(held)


def test_what_killed_runs_left_is_removed_and_a_result_set_aside_comes_back(tmp_path):
    (tmp_path / ".out.partial-abc" / "half").mkdir(parents=True)
    (tmp_path / ".out.replaced-abc" / "out").mkdir(parents=True)
    (tmp_path / ".out.replaced-abc" / "out" / "old").write_text("old")
    (tmp_path / ".other.partial-abc").mkdir()
    with (
        pytest.raises(BadInputError, match="mine"),
        finished_folder(tmp_path / "out", True, "folder", lambda folder: True),
    ):
        assert (tmp_path / "out" / "old").read_text() == "old"
        raise BadInputError("mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial-abc", "out"]
    with finished_folder(tmp_path / "out", True, "folder", lambda folder: True) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


@pytest.mark.skipif(sys.platform != "linux", reason="one stroke is Linux's")
def test_a_result_is_replaced_at_one_stroke(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchanged(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert not exchanged(tmp_path / "a", tmp_path / "none") and (tmp_path / "a").exists()


def test_scratch_folders_of_killed_runs_go_and_those_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("resformer-push-dead", "resformer-push-alive", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".lock").touch()
    with held_by_another(tmp_path / "resformer-push-alive" / ".lock"), scratch_folder("push") as scratch:
        assert scratch.is_dir() and scratch.name.startswith("resformer-push-")
        assert not (tmp_path / "resformer-push-dead").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "resformer-push-alive"]


# What must not be written -----------------------------------------------------------------------------------------------


def test_no_token_reaches_the_trainer(tmp_path):
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), hub_token="hf_secret", use_cpu=True, report_to="none")
    assert take_push(arguments) is None
    assert arguments.hub_token is None and "hf_secret" not in json.dumps(arguments.to_dict())
