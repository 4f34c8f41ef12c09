"""scripts/hf_job.py: from a dataset of the Hub to a model's repository, refused before a training that would be in vain.

`hf jobs uv run --dry-run` resolves the command of docs/train.md itself, and sends nothing.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from prepared_data import prepared_dataset
from run_here import run_command
from small_model import ARCHITECTURE

from modeling_resformer.commands import hf_job, push_to_hub, train
from modeling_resformer.data.prepared import load_prepared


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "hf_job.py"
TINY = ["--config", json.dumps(ARCHITECTURE), "--image_size", "32", "--max_steps", "1", "--use_cpu", "--yes"]


@pytest.fixture
def done(monkeypatch):
    """The trainings and pushes that would have been, by their flags."""
    done = []
    for command in (train, push_to_hub):
        name = command.__name__.rpartition(".")[2]
        monkeypatch.setattr(command, "main", lambda flags, name=name: done.append((name, flags)) or 0)
    return done


@pytest.fixture
def parquet(tmp_path):
    """Files of a prepared dataset as they lie on the Hub, by name."""
    for split, rows in prepared_dataset(train=2, validation=1, test=1).items():
        rows.to_parquet(str(tmp_path / f"sent/data/{split}-00000-of-00001.parquet"))
    (tmp_path / "sent/resformer.json").write_text('{"builder": "folder"}')
    (tmp_path / "sent/README.md").write_text("a card")
    return {path.relative_to(tmp_path / "sent").as_posix(): path for path in (tmp_path / "sent").rglob("*.*")}


def test_a_dataset_of_the_hub_is_trained_on_and_the_model_sent(done, hub, parquet, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.url)
    api.create_repo("me/mine", repo_type="dataset")
    api.upload_folder(repo_id="me/mine", repo_type="dataset", folder_path=tmp_path / "sent")
    flags = ["--dataset", "me/mine", "--repo-id", "me/model", "--output_dir", str(tmp_path / "run"), "--seed", "3"]
    assert run_command("hf_job", *flags, *TINY) == 0
    (_, trained), pushed = done
    folder = trained[trained.index("--dataset") + 1]
    assert len(load_prepared(folder).dataset["train"]) == 2 and not (Path(folder) / "README.md").exists()
    assert trained[trained.index("--seed") + 1] == "3"
    assert pushed == (
        "push_to_hub",
        ["--model", str(tmp_path / "run"), "--repo-id", "me/model", "--dataset-id", "me/mine"],
    )
    assert push_to_hub.parse(pushed[1])


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--dataset", "me/none", "--dry-run"], "--dataset me/none: neither a folder here nor a dataset of the Hub"),
        (["--dataset", "me/none", "--recipe", "smal"], "smal"),
        (["--dataset", "me/none", "--num_training_epochs", "2"], "--num_training_epochs"),
    ],
)
def test_nothing_is_trained_in_vain(done, hub, capsys, flags, said):
    assert run_command("hf_job", "--repo-id", "me/model", *flags) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line and not done


def test_without_a_login_nothing_is_trained(done, hub, capsys, monkeypatch):
    hub.refuse = "GET /api/whoami-v2"
    assert run_command("hf_job", "--repo-id", "me/model", "--dataset", "me/mine") == 1
    assert "error: the Hub does not know who asks" in capsys.readouterr().err and not done


def test_the_script_names_what_uv_installs():
    block = re.search(r"(?m)^# /// script\n((?:# .*\n)+)# ///$", SCRIPT.read_text())[1]
    stated = tomllib.loads(re.sub(r"(?m)^# ", "", block))
    (requirement,) = stated["dependencies"]
    extras = set(re.fullmatch(r"modeling-resformer\[(.+)\]", requirement)[1].split(","))
    assert stated["requires-python"] == ">=3.11"
    setup = (ROOT / "setup.py").read_text()
    assert all(f'    "{extra}": [' in setup for extra in extras)


def test_the_hubs_own_client_understands_the_documented_command(capsys, monkeypatch, tmp_path):
    from huggingface_hub.cli.hf import app

    text = (ROOT / "docs" / "train.md").read_text().replace("\\\n", " ")
    words = shlex.split(re.search(r"(?m)^hf jobs uv run .*$", text)[0])
    place = words.index("scripts/hf_job.py")
    assert hf_job.parse(words[place + 1 :]).training
    command = [*words[1:4], "--dry-run", "--namespace", "me", *words[4:place], str(SCRIPT), *words[place + 1 :]]
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dist").mkdir()
    app.main(args=command, standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Job not submitted" in shown and "--repo-id me/resformer-mine" in shown


@pytest.mark.slow
def test_a_dry_run_trains_and_writes_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared_dataset(train=2, validation=2, test=2).save_to_disk("mine")
    assert run_command("hf_job", "--dataset", "mine", "--repo-id", "me/model", "--dry-run", *TINY) == 0
    assert (tmp_path / "run/results.json").is_file() and (tmp_path / "run-repository/README.md").is_file()
