"""README and docs: their Python runs, their commands are understood, and what they name is there; see also test_docs_data.py.

The commands of docs/train.md, predict.md and publish.md run in order, on tiny data, with flags that make a training short.
"""

import importlib
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_data import PHOTOGRAPH, dataset_of, save
from prepared_data import MASK_CLASSES, prepared_dataset
from raw_data import random_volume, write_metaimage, write_photograph
from small_model import ARCHITECTURE

from modeling_resformer.data.columns import dataset_features
from modeling_resformer.training.arguments import parse_arguments


ROOT = Path(__file__).parents[1]
READY = ROOT / "hub_cards" / "resformer-lite-isic2017"
RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.json"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS}
SHORT = ["--max_steps", "1", "--image_size", "64", "--per_device_train_batch_size", "2", "--bootstrap_samples", "0"]
SHORT += ["--use_cpu", "--yes"]
SMALL = ["--config", json.dumps(ARCHITECTURE)]  # of a model that has no backbone
AROUND_A_BACKBONE = {path.stem for path in RECIPES if "backbone" in json.loads(path.read_text())}


def blocks(language, text):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands_of(text):
    """Every command of a document's bash blocks that names a script, in words."""
    lines = "\n".join(blocks("bash", text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.search(r"scripts/\w+\.py", line)]


def script_and_flags(words):
    place = next(i for i, word in enumerate(words) if re.fullmatch(r"scripts/\w+\.py", word))
    return Path(words[place]).stem, words[place + 1 :]


PYTHON = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in TEXTS.items()
    if name != "data.md"  # runs as a whole in test_docs_data.py
    for number, block in enumerate(blocks("python", text))
]
COMMANDS = [
    pytest.param(words, id=f"{name}-{' '.join(words[:4])}")
    for name, text in TEXTS.items()
    for words in commands_of(text)
]


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(block, tmp_path, monkeypatch):
    assert len(block.strip().splitlines()) <= 12
    (tmp_path / "block.py").write_text(block)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(tmp_path / "block.py"))


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_understood(words, monkeypatch):
    """By the parser itself: unknown flags and values of no use end in SystemExit or an error."""
    monkeypatch.chdir(ROOT)
    script, flags = script_and_flags(words)
    if words[0] == "torchrun":  # a process group cannot be had here; test_distributed.py starts one with this flag
        place = flags.index("--ddp_backend")
        del flags[place : place + 2]
    assert (ROOT / "scripts" / f"{script}.py").is_file()
    parsers = {"train": parse_arguments}
    if script in parsers or script in OWN_PARSERS:
        parse = parsers.get(script) or importlib.import_module(f"modeling_resformer.commands.{script}").parse
        assert parse(flags)


OWN_PARSERS = {path.stem for path in (ROOT / "modeling_resformer" / "commands").glob("[a-z]*.py")}


def test_there_are_commands_of_every_kind():
    shown = {script_and_flags(words)[0] for words in (parameter.values[0] for parameter in COMMANDS)}
    kinds = {"train", "train_seeds", "evaluate", "predict", "serve", "push_to_hub", "check_leakage"}
    assert shown >= kinds | {"prepare_folder", "prepare_isic2017", "prepare_retouch"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_everything_named_or_linked_is_there(path):
    text = path.read_text(encoding="utf-8")
    linked = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    named = re.findall(r"`((?:scripts|docs|examples|modeling_resformer|hub_cards|tests)/[\w./-]*[\w/])`", text)
    missing = [link for link in linked if not (path.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_anchors_lead_to_headings():
    def anchor(heading):
        return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")

    for path in DOCUMENTS:
        for link, wanted in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", TEXTS[path.name]):
            if "://" not in link:
                target = TEXTS[Path(link).name if link else path.name]
                assert wanted in map(anchor, re.findall(r"^#+ (.+)$", target, re.MULTILINE)), (path.name, wanted)


def test_the_readme_is_short_and_makes_both_commands_plain():
    assert len(TEXTS["README.md"].split()) <= 800
    assert {"make demo", "make test"} <= {line.split("  ")[0] for line in TEXTS["README.md"].splitlines()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands of the documents run: data/, photographs and volumes, and the checkpoint that comes along."""
    root = tmp_path_factory.mktemp("docs")
    dataset = prepared_dataset(train=4, validation=4, test=4)
    dataset.save_to_disk(str(root / "data" / "mine"))
    diagnoses = dataset_features(MASK_CLASSES, ["melanoma", "seborrheic_keratosis"])
    dataset.cast(diagnoses).save_to_disk(str(root / "data" / "isic2017"))
    for name in ("photo.jpg", "folder/a.jpg", "more/b.png"):
        write_photograph(root / name)
    save(dataset_of(np.zeros((20, 24, 3), np.uint8), PHOTOGRAPH), root / "mole.dcm")
    (root / "codes.json").write_text('{"lesion": {"value": "95324001", "meaning": "Skin lesion"}}')
    write_metaimage(root / "RETOUCH" / "Cirrus" / "TRAIN001" / "oct.mhd", random_volume((3, 20, 24)))
    shutil.copytree(READY, root / "hub_cards" / READY.name)
    return root


def run(words, monkeypatch):
    script, flags = script_and_flags(words)
    short = {"train": SHORT, "evaluate": ["--bootstrap_samples", "0", "--use_cpu"], "predict": ["--cpu-threads", "1"]}
    if script == "train" and not AROUND_A_BACKBONE & set(flags):
        short["train"] = [*SHORT, *SMALL]
    # What takes a process of its own and seconds each time: test_preflight.py and test_push_to_hub.py look at that.
    monkeypatch.setattr("modeling_resformer.training.training_run.check_resources", lambda trainer, go_on: None)
    monkeypatch.setattr("modeling_resformer.publishing.repository.check_reload", lambda folder, model: None)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags, *short.get(script, [])])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert stopped.value.code in (0, None), words


@pytest.mark.long
def test_commands_run_in_order(folder, monkeypatch):
    """Those that start several processes, serve, or need a GPU have tests of their own."""
    monkeypatch.chdir(folder)
    for document, scripts in (
        ("train.md", ["train", "evaluate"]),
        ("predict.md", ["predict"]),
        ("publish.md", ["push_to_hub"]),
    ):
        ran = [
            words
            for words in commands_of(TEXTS[document])
            if words[0] == "python" and script_and_flags(words)[0] in scripts
        ]
        assert len(ran) >= 2
        for words in ran:
            run(words, monkeypatch)


@pytest.mark.slow  # continuous integration builds it by `make docs`
def test_the_site_builds_without_a_warning(tmp_path):
    """With the reference of the Python API, from docstrings."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-c",
        "docs",
        ".",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "docs" / "api.html").read_text(encoding="utf-8")
    assert "ResFormerForMultiTask" in reference and "segmentation_scores" in reference
