"""docs/data.md: its commands and Python run, in order, on a tiny folder of each kind, and folders are refused by it."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import write_csv, write_isic, write_mask, write_photograph, write_retouch_volume
from run_here import run_command


pytest.importorskip("SimpleITK")

from modeling_resformer.data.prepared import load_prepared


ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", TEXT, flags=re.DOTALL)


def write_scans(root, count=12):
    """The document's folder, its table as printed there, and more patients."""
    names = ["a.png", "b.png", "more/c.jpg", *(f"{number:02d}.png" for number in range(count))]
    for seed, name in enumerate(names):
        write_photograph(root / "images" / name, seed=seed)
    for name in ("a", "b_mask", "03_segmentation", "04"):
        write_mask(root / "masks" / f"{name}.png", values=(0, 255))
    printed = re.search(r"```\n(file_name.*?)```", TEXT, re.DOTALL)[1]
    rows = [line.split(",") for line in printed.splitlines()]
    rows += [[name, ("benign", "malignant")[i % 2], f"case {i}"] for i, name in enumerate(names[3:])]
    write_csv(root / "labels.csv", rows)


def write_busi(root):
    for seed, name in enumerate(f"{kind} ({i})" for kind in ("benign", "malignant", "normal") for i in range(1, 6)):
        folder = root / name.split()[0]
        write_photograph(folder / f"{name}.png", seed=seed)
        write_mask(folder / f"{name}_mask.png", values=(0, 0 if folder.name == "normal" else 255))
    second = np.zeros((30, 40), dtype=np.uint8)
    second[20:, 30:] = 255
    Image.fromarray(second).save(root / "benign" / "benign (1)_mask_1.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("docs")
    write_scans(root / "scans")
    write_busi(root / "Dataset_BUSI_with_GT")
    write_isic(root / "ISIC2017", diagnoses=("10", "01", "00") * 5)
    for number in (1, 2):
        write_retouch_volume(root / "RETOUCH" / "Cirrus" / f"TRAIN{number:03d}", seed=number)
    write_csv(root / "annotated.csv", [["case_id", "slice_index"], ["TRAIN001", 2]])
    for name, values in (("columns", (0, 255)), ("slices", (255, 1))):
        write_photograph(root / name / "images" / "a.png")
        write_mask(root / name / "masks" / "a.png", values=values)
    write_csv(root / "columns" / "labels.csv", [["file_name", "benign", "malignant"], ["a.png", "1", ""]])
    return root


def run_line(command):
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] == "pip":
        return
    assert words[0] in ("python", "resformer")
    assert run_command(Path(words[1]).stem.replace("-", "_"), *words[2:]) == 0, command


@pytest.mark.long
def test_commands_and_python_run_as_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(BLOCKS) > 10
    for number, (language, block) in enumerate(BLOCKS):
        if language == "python":
            (tmp_path / f"block_{number}.py").write_text(block)
            runpy.run_path(str(tmp_path / f"block_{number}.py"))
            continue
        for command in re.split(r"(?<!\\)\n", block.strip()):
            run_line(command)
    busi = load_prepared(folder / "data" / "busi")
    assert (busi.modality, busi.class_labels) == ("ultrasound", ["benign", "malignant", "normal"])
    rows = {row["case_id"]: row for split in busi.dataset.values() for row in split}
    assert len(rows) == 15
    mask = np.asarray(rows["benign (1)"]["mask"])
    assert mask[5, 5] == mask[25, 35] == 1 and mask[25, 5] == 0  # of both files
    assert load_prepared(folder / "data" / "scans").class_labels == ["benign", "calcified", "malignant"]
    assert load_prepared(folder / "data" / "part").dataset["train"]["class_labels"].count(None) == 11


def test_every_flag_and_file_named_is_there(capsys):
    helps = ""
    for name in ("prepare_folder", "prepare_retouch", "prepare_isic2017", "check_leakage", "train"):
        with pytest.raises(SystemExit):
            run_command(name, "--help")
        helps += capsys.readouterr().out
    flags = set(re.findall(r"--[a-z][\w-]+", TEXT))
    assert flags and not {flag for flag in flags if flag not in helps}


@pytest.mark.parametrize(
    ("script", "write", "flags", "contract"),
    [
        (
            "prepare_folder",
            lambda r: (r / "images").mkdir(),
            [],
            "Expected images/ with images, masks/ with masks",
        ),
        (
            "prepare_folder",
            lambda r: write_mask(r / "masks" / "x.png"),
            [],
            "Expected images/ with images, masks/ with masks",
        ),
        ("prepare_isic2017", lambda r: (r / "x").mkdir(), [], "Expected ISIC-2017_Training_Data/"),
        ("prepare_retouch", lambda r: (r / "x").mkdir(), [], "with oct.mhd and reference.mhd"),
    ],
)
def test_a_refused_folder_is_told_the_contract_and_where_it_stands(tmp_path, capsys, script, write, flags, contract):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw")
    assert run_command(script, "--source", tmp_path / "raw", "--output", tmp_path / "o", *flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(contract, error)
    assert error.endswith("see docs/data.md")
