"""scripts/predict.py stopped, killed, repeated and changed: nothing is done twice, nothing is half, nothing is mixed."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import StandInHub
from PIL import Image

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.prediction import case_loop


TABLES = ("predictions.csv", "predictions.parquet")

# Dies while the 17th file is put in its place, a thumbnail, as a power cut would have it.
KILLED = """
import os, signal, sys
from modeling_resformer.commands.predict import main
replace, calls = os.replace, []
def replace_or_die(*paths):
    calls.append(paths)
    if len(calls) == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
os.replace = replace_or_die
main(sys.argv[1:])
"""


@pytest.fixture
def images(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for number in range(7):
        pixels = rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def same_results(one: Path, other: Path) -> None:
    for name in TABLES:
        assert (one / name).read_bytes() == (other / name).read_bytes()
    for kind in ("masks", "overlays"):
        files = {path.name: path.read_bytes() for path in (one / kind).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (other / kind).iterdir()}
    assert (one / "sheet.png").read_bytes() == (other / "sheet.png").read_bytes()
    for kind in ("reports", "thumbnails"):
        pages = {path.name: undated(path.read_bytes()) for path in (one / kind).glob("*")}
        assert pages == {path.name: undated(path.read_bytes()) for path in (other / kind).glob("*")}


def undated(page: bytes) -> bytes:
    """A report without the time at which it was made."""
    return re.sub(rb"predicted [-\d]+ [:\d]+ UTC", b"", page)


@pytest.mark.long
def test_a_killed_run_leaves_whole_files_and_a_rerun_ends_as_if_nothing_had_been(predict, model, images, tmp_path):
    arguments = [
        model,
        str(images),
        "--batch-size",
        "3",
        "--cpu-threads",
        "1",
        "--device",
        "cpu",
        "--report",
        "--output",
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED, *arguments, str(killed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    assert not (killed / "predictions.csv").exists() and not (killed / "worklist.html").exists()
    assert all(path.read_bytes().endswith(b"</html>\n") for path in (killed / "reports").glob("[!.]*"))
    finished = [*(killed / "masks").glob("[!.]*"), *(killed / "overlays").glob("[!.]*")]
    assert 6 <= len(finished) < 14 and len(list(killed.rglob(".partial-*"))) == 1
    for path in finished:
        with Image.open(path) as image:
            image.load()

    assert predict([*arguments, str(killed)]) == predict([*arguments, str(whole)]) == 0
    same_results(killed, whole)
    assert (killed / "worklist.html").read_bytes() == (whole / "worklist.html").read_bytes()
    assert len(list((killed / "reports").iterdir())) == 7
    assert not list(killed.rglob(".partial-*"))


def test_what_is_finished_is_not_done_again(predict, model, images, tmp_path, monkeypatch):
    arguments = [model, str(images), "--output", str(tmp_path / "out"), "--batch-size", "2"]
    assert predict(arguments) == 0
    table = (tmp_path / "out/predictions.csv").read_bytes()
    done = []
    finish = case_loop.Run.finish_image
    monkeypatch.setattr(case_loop.Run, "finish_image", lambda *given: done.append(given[1].name) or finish(*given))
    assert predict(arguments) == 0 and done == []
    # An image that changed and a mask that was lost are done anew, and nothing else.
    Image.new("RGB", (20, 10)).save(images / "5.png")
    (tmp_path / "out/masks/2.png").unlink()
    (tmp_path / "out/problems.json").write_text("[]")
    assert predict(arguments) == 0 and sorted(done) == ["2", "5"]
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").read_text().splitlines()))
    assert [row["case_id"] for row in rows] == [str(number) for number in range(7)] and rows[5]["width"] == "20"
    assert (tmp_path / "out/predictions.csv").read_bytes() != table and not (tmp_path / "out/problems.json").exists()


def test_an_unfinished_line_of_the_journal_does_not_count(predict, model, images, tmp_path):
    arguments = [model, str(images), "--cpu-threads", "1", "--output"]
    assert predict([*arguments, str(tmp_path / "out")]) == predict([*arguments, str(tmp_path / "other")]) == 0
    journal = tmp_path / "out/journal/process-000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    assert predict([*arguments, str(tmp_path / "out")]) == 0
    same_results(tmp_path / "out", tmp_path / "other")
    lines = journal.read_text().splitlines()
    assert len(lines) == 8 and json.loads(lines[-1])["name"] == "6"


def test_other_settings_are_one_line_until_asked_to_overwrite(predict, model, images, tmp_path, caplog):
    arguments = [model, str(images / "0.png"), "--output", str(tmp_path / "out")]
    assert predict(arguments) == 0
    assert predict([*arguments, "--threshold", "0.25"]) == 1
    (message,) = caplog.messages
    assert "thresholds [0.5, 0.5] there, [0.25, 0.25] now" in message and "--overwrite" in message
    (tmp_path / "out/mine.txt").write_text("kept")
    assert predict([*arguments, "--threshold", "0.25", "--overwrite"]) == 0
    (row,) = csv.DictReader((tmp_path / "out/predictions.csv").read_text().splitlines())
    assert row["threshold_a"] == "0.25" and (tmp_path / "out/mine.txt").read_text() == "kept"


def test_other_weights_are_other_settings(predict, model, images, tmp_path, caplog):
    arguments = [str(images / "0.png"), "--output", str(tmp_path / "out")]
    assert predict([model, *arguments]) == 0
    trained_on = ResFormerForMultiTask.from_pretrained(model)
    trained_on.classification_head.to(trained_on.dtype)
    next(trained_on.parameters()).data.add_(1e-3)
    trained_on.save_pretrained(tmp_path / "other")
    ResFormerImageProcessor.from_pretrained(model).save_pretrained(tmp_path / "other")
    assert predict([str(tmp_path / "other"), *arguments]) == 1
    assert "weights" in caplog.text


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_of_other_things_is_left_alone(predict, model, images, tmp_path, caplog, overwrite):
    assert predict([model, str(images), "--output", str(images), *overwrite]) == 1
    assert "holds other files and no settings.json" in caplog.text
    assert len(list(images.iterdir())) == 7


def test_a_full_disk_is_one_line_and_what_is_finished_is_kept(predict, model, images, tmp_path, monkeypatch, caplog):
    arguments = [model, str(images), "--output", str(tmp_path / "out"), "--cpu-threads", "1"]
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(".partial-3.png"):
            write(path, content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert predict(arguments) == 1
    (message,) = caplog.messages
    assert "masks/3.png: cannot be written, no space left on the disk; what is finished is kept" in message
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["0.png", "1.png", "2.png"]
    monkeypatch.undo()
    assert predict(arguments) == 0
    assert len(list((tmp_path / "out/masks").iterdir())) == 7


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(predict, model, images, tmp_path):
    (images / "broken.png").write_bytes(b"nothing")
    arguments = [model, str(images), "--batch-size", "2", "--cpu-threads", "1", "--device", "cpu", "--output"]
    assert predict([*arguments, str(tmp_path / "one")]) == 1
    # Despite its name the flag that makes accelerate start several processes; --cpu would start one.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [sys.executable, *launch, "-m", "modeling_resformer.commands.predict"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *arguments, str(tmp_path / "two")], capture_output=True, text=True, timeout=600, env=environment
    )
    assert result.returncode == 1 and "broken.png: not an image" in result.stderr, result.stderr[-3000:]
    same_results(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one/problems.json").read_bytes() == (tmp_path / "two/problems.json").read_bytes()
    assert len(list((tmp_path / "two/journal").iterdir())) == 2


@pytest.mark.slow
def test_a_hub_id_and_its_revision_are_read(model, images, tmp_path):
    files = {path.name: path.read_bytes() for path in Path(model).iterdir() if path.is_file()}
    config = json.loads(files["config.json"])
    old = {**files, "config.json": json.dumps({**config, "classification_thresholds": [0.25, 0.75]}).encode()}
    hub = StandInHub().start()
    commits = {"a" * 40: old, "b" * 40: files}
    hub.repositories["org/model"] = {"private": False, "gated": False, "files": files}
    hub.repositories["org/model"] |= {"commits": commits, "refs": {"v1": "a" * 40, "main": "b" * 40}}
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    for revision, thresholds in (("v1", ["0.25", "0.75"]), ("main", ["0.5", "0.5"])):
        output = tmp_path / revision
        command = [sys.executable, "-m", "modeling_resformer.commands.predict", "org/model", str(images / "0.png")]
        command += ["--revision", revision, "--output", str(output)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert result.returncode == 0, result.stderr[-3000:]
        (row,) = csv.DictReader((output / "predictions.csv").read_text().splitlines())
        assert [row["threshold_a"], row["threshold_b"]] == thresholds
    command[5:] = ["--revision", "none", "--output", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    hub.shutdown()
    assert result.returncode == 1 and "model org/model: " in result.stderr and "Traceback" not in result.stderr
