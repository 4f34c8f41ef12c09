"""An output that cannot be made, and a disk that is full: each command ends in one line and leaves nothing half-written.

The tests may run as root, whom no read-only folder refuses: a parent that is a file stands for a place that cannot be
written, a limit on the size of files or an error at the write for a full disk.
"""

import errno
import os
import resource
import signal
from contextlib import contextmanager

import pytest
from PIL import Image
from prepared_data import prepared_dataset
from raw_data import random_volume, write_mask, write_photograph
from run_here import run_command
from safetensors import SafetensorError
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.data.multitask_folder import MultiTaskFolder
from modeling_resformer.errors import BadInputError, named_worker_failure, named_write_failure
from modeling_resformer.files import check_writable, finished_folder
from modeling_resformer.training import evaluation_run, seed_runs
from modeling_resformer.volumes import scan


FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(id2label={0: "background", 1: "lesion"}, classification_labels=["red", "brown"])
    ResFormerForMultiTask(config).save_pretrained(folder)
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    prepared_dataset().save_to_disk(str(folder))
    return str(folder)


def images(tmp_path, count=4):
    for number in range(count):
        write_photograph(tmp_path / "mine" / "images" / f"{number}.png", seed=number)
        write_mask(tmp_path / "mine" / "masks" / f"{number}.png")
    return ["--source", str(tmp_path / "mine"), "--mask-values", "0=background,255=lesion"]


def commands(tmp_path, model, dataset, output):
    """Each command with its output at `output`."""
    return {
        "prepare_folder": [*images(tmp_path), "--output", output],
        "train": ["--dataset", dataset, "--model_name_or_path", model, "--output_dir", output, "--use_cpu"],
        "evaluate": ["--dataset", dataset, "--model_name_or_path", model, "--output", output],
        "predict": [model, str(tmp_path / "mine" / "images" / "0.png"), "--output", output],
    }


@pytest.mark.parametrize("command", ["prepare_folder", "train", "evaluate", "predict"])
def test_an_output_below_a_file_is_one_line(tmp_path, model, dataset, capsys, caplog, command):
    (tmp_path / "file").write_bytes(b"old")
    output = str(tmp_path / "file" / "out" / "deep")
    arguments = commands(tmp_path, model, dataset, output)[command]
    assert run_command(command, *arguments) == 1
    lines = [*capsys.readouterr().err.splitlines(), *(record.getMessage() for record in caplog.records)]
    (line,) = [line for line in lines if "cannot be written" in line]
    assert str(tmp_path / "file") in line and "Not a directory" in line
    assert (tmp_path / "file").read_bytes() == b"old"


@contextmanager
def files_of_at_most(size):
    """A disk that takes no file of more bytes; Python ignores the signal and sees the error."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_data_that_do_not_fit_on_the_disk_leave_nothing(tmp_path, capsys, num_proc):
    options = images(tmp_path)
    for number in range(4):
        Image.fromarray(random_volume((90, 90, 3), seed=number)).save(tmp_path / "mine" / "images" / f"{number}.png")
        write_mask(tmp_path / "mine" / "masks" / f"{number}.png", size=(90, 90))
    output = tmp_path / "out"
    with files_of_at_most(30_000):
        assert run_command("prepare_folder", *options, "--output", output, "--num-proc", num_proc) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {output}: cannot be written (File too large); make room there, or give another --output"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_a_mask_that_does_not_fit_ends_the_run_and_is_not_left_half(
    tmp_path, predict, model, monkeypatch, caplog, suffix
):
    """ITK writes as much of a NIfTI file as fits and says nothing."""
    SimpleITK = pytest.importorskip("SimpleITK")
    source, output = tmp_path / f"big{suffix}", tmp_path / "out"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(random_volume((4, 64, 64))), str(source))
    write_volume = scan.write_volume
    noise = random_volume((4, 64, 64))
    monkeypatch.setattr(scan, "write_volume", lambda path, mask, geometry: write_volume(path, noise, geometry))
    with files_of_at_most(8_000):
        assert predict([model, str(source), "--output", str(output)]) == 1
    (line,) = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert f"masks/big{suffix}" in line and "what is finished is kept" in line
    assert not [path for path in output.rglob("*") if "big" in path.name]
    assert predict([model, str(source), "--output", str(output)]) == 0


@pytest.mark.parametrize("error", [FULL, READ_ONLY])
@pytest.mark.parametrize("place", ["evaluate_split", "write_pages"])
def test_a_disk_that_fills_up_during_evaluation(tmp_path, model, dataset, monkeypatch, capsys, error, place):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(evaluation_run, place, refuse)
    output = str(tmp_path / "out")
    assert run_command("evaluate", "--dataset", dataset, "--model_name_or_path", model, "--output", output) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == f"error: {output}: cannot be written ({error.strerror}); make room there, or give another --output"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "No space left on device"),
        (READ_ONLY, "Read-only file system"),
        (SafetensorError("I/O error: no space"), "I/O error: no space"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 1"), "[enforce fail"),
    ],
)
def test_a_repository_or_dataset_that_does_not_fit_is_named_and_leaves_the_old_one(tmp_path, error, reason):
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").write_text("old")
    with (
        pytest.raises(BadInputError, match="cannot be written") as caught,
        finished_folder(output, True, "folder", lambda folder: True) as folder,
    ):
        (folder / "new").write_text("half")
        raise LookupError("as a library wraps it") from error
    assert str(output) in str(caught.value) and reason in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (output / "old").read_text() == "old"


def test_a_worker_that_is_killed_is_one_line(tmp_path, monkeypatch, capsys):
    def killed(self, case):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(MultiTaskFolder, "rows", killed)
    assert run_command("prepare_folder", *images(tmp_path), "--output", tmp_path / "out", "--num-proc", 2) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(tmp_path / "mine") in line and "was killed" in line and "--num-proc 1" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    with (
        pytest.raises(BadInputError, match="run: a process that read its data was killed"),
        named_worker_failure("run", "x"),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (KeyError("ours"), BadInputError("a file cannot be read"), RuntimeError("shape mismatch")):
        with pytest.raises(type(error)) as caught, named_write_failure(tmp_path, "--output"):
            raise error
        assert caught.value is error


def test_a_check_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b", "--output")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match=r"file: cannot be written \(Not a directory\); give another --output_dir"):
        check_writable(tmp_path / "file", "--output_dir")


def test_tables_over_seeds_that_do_not_fit(tmp_path, monkeypatch, capsys):

    def refuse(path, text):
        raise FULL

    for name, value in {
        "train_seed": lambda *_: True,
        "summarise_seeds": lambda *_: {},
        "write_whole": refuse,
    }.items():
        monkeypatch.setattr(seed_runs, name, value)
    assert run_command("train_seeds", "--seeds", "0", "--output_dir", tmp_path) == 1
    assert f"error: {tmp_path}: cannot be written (No space left on device)" in capsys.readouterr().err
