"""run.json: settings that repeat a run, the commit, and a clock that goes on after a resumption."""

import dataclasses
import json
import subprocess
import time
from pathlib import Path

import pytest
from small_trainer import make_trainer

from modeling_resformer.training import run_record
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.training.run_record import RunClock, code_version, recipe_of


RECIPES = sorted((Path(__file__).parents[1] / "scripts" / "recipes").glob("*.json"))
FLAGS = ["--dataset", "some/folder", "--output_dir", "out", "--use_cpu"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_settings_are_a_recipe_of_the_same_run(recipe, tmp_path):
    given = parse_arguments([str(recipe), *FLAGS, "--learning_rate", "0.125", "--data_seed", "0"])
    settings = recipe_of(*given)
    assert settings["learning_rate"] == 0.125
    (tmp_path / "again.json").write_text(json.dumps(settings))
    again = parse_arguments([str(tmp_path / "again.json"), *FLAGS])
    for ours, theirs in zip(again, given, strict=True):
        assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)


def test_defaults_are_no_settings():
    assert recipe_of(*parse_arguments(["--dataset", "d", "--output_dir", "out"])) == {}


def test_secrets_and_folders_are_no_settings(tmp_path):
    flags = ["--hub_token", "hf_secret", "--init_resnet", str(tmp_path), "--run_name", "x", "--seed", "3"]
    flags += ["--accelerator_config", '{"even_batches": false}']
    settings = recipe_of(*parse_arguments([*FLAGS, *flags]))
    assert "hf_secret" not in json.dumps(settings)
    assert str(tmp_path) not in json.dumps(settings)
    assert settings["accelerator_config"]["even_batches"] is False
    assert settings["seed"] == 3
    assert not {"hub_token", "init_resnet", "dataset", "output_dir", "run_name"} & set(settings)


def test_the_commit_is_that_of_the_code_and_of_no_other_project(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    file = tmp_path / "run_record.py"
    file.write_text("1\n")
    monkeypatch.setattr(run_record, "__file__", str(file))
    assert code_version()["commit"] is None
    git("init")
    (tmp_path / "other.txt").write_text("of a project around the package\n")
    git("add", "other.txt")
    git("commit", "-m", "one")
    assert (code_version()["commit"], code_version()["modified"]) == (None, None)
    git("add", "run_record.py")
    git("commit", "-m", "two")
    assert (code_version()["commit"], code_version()["modified"]) == (git("rev-parse", "HEAD"), False)
    file.write_text("2\n")
    assert code_version()["modified"] is True


def test_the_clock_goes_on_after_a_resumption(dataset, tmp_path):
    def run(folder, seconds_before, **resume):
        trainer = make_trainer(dataset, folder, max_steps=4, save_strategy="steps", save_steps=2)
        clock = RunClock(seconds_before=seconds_before)
        trainer.add_callback(clock)
        trainer.train(**resume)
        return clock

    first = run(tmp_path / "run", seconds_before=1000.0)
    time.sleep(1)
    second = run(tmp_path / "run", 0.0, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert (first.starts, second.starts) == (1, 2)
    assert second.started == first.started
    assert 1000 < second.seconds < 1200
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["RunClock"]["args"]["starts"] == 2
