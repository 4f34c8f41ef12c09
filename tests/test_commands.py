"""The command line: help without torch, one name for the model, every spelling, and scripts that shadow no package."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_resformer import __version__
from modeling_resformer.commands import (
    check_leakage,
    evaluate,
    gpu_check,
    launch,
    predict,
    prepare_folder,
    prepare_retouch,
    push_to_hub,
    serve,
    train_seeds,
)
from modeling_resformer.data.leakage import MAX_DISTANCE
from modeling_resformer.data.retouch import VENDORS
from modeling_resformer.data.transforms import AUGMENTATIONS
from modeling_resformer.errors import BadInputError
from modeling_resformer.handler import Limits
from modeling_resformer.pipeline_resformer import VIEWS
from modeling_resformer.serving.app import ServerSettings
from modeling_resformer.training.arguments import parse_arguments


ROOT = Path(__file__).parents[1]
SCRIPTS = [ROOT / "scripts" / f"{name}.py" for name in launch.NAMES]
LAUNCHER = (ROOT / "scripts" / "predict.py").read_text().partition("\n")[2]
# An entry of None makes Python refuse the import.
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "transformers", "datasets", "numpy", "modeling_resformer"):
    sys.modules[name] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CONSOLE = """
import sys
for name in ("torch", "transformers", "datasets", "numpy"):
    sys.modules[name] = None
del sys.argv[0]
import resformer_console
sys.exit(resformer_console.main())
"""


def run_without_torch(script, *flags):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(script), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def console_without_torch(*arguments):
    command = [sys.executable, "-c", CONSOLE, "/anywhere/bin/resformer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_needs_no_torch_and_is_the_docstring_by_script_and_by_console(script):
    done = run_without_torch(script, "--help")
    assert done.returncode == 0, done.stderr
    name = script.stem.replace("_", "-")
    for shown, program in ((done, script.name), (console_without_torch(name, "--help"), f"resformer {name}")):
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith(f"usage: {program}")
        assert "options:" in shown.stdout
        module = ast.parse((ROOT / "modeling_resformer" / "commands" / script.name).read_text())
        assert ast.get_docstring(module) in shown.stdout
    assert done.stdout.partition("\n\n")[2] == shown.stdout.partition("\n\n")[2]


def test_the_console_lists_every_command_with_its_first_line_and_tells_its_version():
    listed = console_without_torch("--help")
    assert listed.returncode == 0, listed.stderr
    for script in SCRIPTS:
        name = script.stem.replace("_", "-")
        (line,) = [line for line in listed.stdout.splitlines() if line.split()[:1] == [name]]
        module = ast.parse((ROOT / "modeling_resformer" / "commands" / script.name).read_text())
        assert line.split(maxsplit=1)[1] == ast.get_docstring(module).partition("\n")[0]
    told = console_without_torch("--version")
    assert (told.returncode, told.stdout) == (0, f"{__version__}\n")


def test_the_console_takes_dashes_and_underscores_and_suggests_a_command():
    assert console_without_torch("prepare_folder", "-h").stdout == console_without_torch("prepare-folder", "-h").stdout
    wrong = console_without_torch("predit", "a.png")
    assert (wrong.returncode, wrong.stderr.splitlines()[-1]) == (
        2,
        "resformer: error: there is no command predit; did you mean predict?",
    )
    assert console_without_torch().returncode == 2
    missing = console_without_torch("evaluate", "--dataset", "d", "--output", "o")
    assert (missing.returncode, missing.stderr) == (1, "error: --model is missing; see evaluate.py --help.\n")


def test_every_script_starts_the_command_of_its_name():
    assert {path.stem for path in (ROOT / "modeling_resformer" / "commands").glob("*.py")} - {
        *("__init__", "launch", "preparation_flags", "hf_job")
    } == set(launch.NAMES)
    for script in SCRIPTS:
        assert script.read_text().partition("\n")[2] == LAUNCHER
        assert len(LAUNCHER.splitlines()) <= 10


def test_help_of_train_shows_our_own_options_and_help_all_the_trainers(capsys):
    shown = run_without_torch(ROOT / "scripts" / "train.py", "-h").stdout
    for flag in ("--recipe FILE", "RECIPE.json", "--model FOLDER_OR_HUB_ID", "--dataset", "--yes", "--help-all"):
        assert flag in shown
    assert "--adam_beta1" not in shown
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--help-all", "--dataset", "d"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--adam_beta1" in shown
    assert "--ema_decay" in shown


@pytest.mark.parametrize(
    ("script", "flags", "status", "said"),
    [
        ("predict", ["--model", "m", "a.png"], 2, "--output"),
        ("predict", ["--model", "m", "a.png", "--output", "o", "--batch-size", "0"], 2, "--batch-size is 0"),
        ("serve", [], 2, "--model is missing"),
        ("evaluate", ["--dataset", "d", "--output", "o"], 1, "error: --model is missing"),
        ("prepare_folder", ["--output", "o"], 2, "--source"),
        (
            "train",
            ["--dataset", "d", "--recipe", "small_cup.json"],
            1,
            "error: small_cup.json: there is no such recipe",
        ),
        ("train", ["--dataset", "d", "--recipe=a/small_cpu.json"], 1, "isic2017_small_cpu, oct_phantom"),
        ("train", ["small_cup.json", "--dataset", "d"], 1, "small_cpu, tiny_cpu."),
        (
            "evaluate",
            ["--model", "m", "--datset", "d"],
            1,
            "unrecognized arguments: --datset d; did you mean --dataset?",
        ),
    ],
)
def test_mistakes_are_named_before_torch_is_imported(script, flags, status, said):
    done = run_without_torch(ROOT / "scripts" / f"{script}.py", *flags)
    assert done.returncode == status
    assert said in done.stderr


PUSH = ["--repo-id", "me/name"]
PREDICT = ["--output", "o", "a.png", "b.png"]


@pytest.mark.parametrize(
    ("parse", "old", "new"),
    [
        (predict.parse, ["m", *PREDICT], ["--model", "m", *PREDICT]),
        (predict.parse, ["--output", "o", "m", "a.png", "b.png"], [*PREDICT, "--model=m"]),
        (predict.parse, ["--model_name_or_path", "m", *PREDICT], ["--model", "m", *PREDICT]),
        (serve.parse, ["m"], ["--model", "m"]),
        (serve.parse, ["--model-name-or-path", "m"], ["--model", "m"]),
        (push_to_hub.parse, ["m", *PUSH], [*PUSH, "--model", "m"]),
        (push_to_hub.parse, ["m", *PUSH, "--share-pictures"], ["m", *PUSH, "--share-images"]),
        (
            evaluate.parse,
            ["--model_name_or_path", "m", "--dataset", "d", "--output", "o"],
            ["--dataset", "d", "--model", "m", "--output", "o"],
        ),
    ],
)
def test_the_models_old_names_mean_the_new_one(parse, old, new):
    assert vars(parse(old)) == vars(parse(new))
    model = vars(parse(new)).get("model", vars(parse(new)).get("model_name_or_path"))
    assert str(model) == "m"


@pytest.mark.parametrize("flag", ["--model", "--model_name_or_path", "--model-name-or-path"])
def test_train_takes_the_model_by_both_names_in_flags_and_recipes(flag, tmp_path):
    assert parse_arguments([flag, "m", "--dataset", "d"])[0].model_name_or_path == "m"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({flag.removeprefix("--"): "m"}))
    assert parse_arguments(["--dataset", "d", str(recipe)])[0].model_name_or_path == "m"


def test_messages_call_the_model_by_the_name_that_the_help_shows():
    named = [
        path.relative_to(ROOT).as_posix()
        for folder in ("modeling_resformer", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("flags.py", "evaluation_options.py", "training_options.py", "predict.py")
        and "--model_name_or_path" in path.read_text()
    ]
    assert named == []


def test_a_model_given_twice_or_not_at_all_is_refused(capsys):
    for flags, said in ((["m", "--model", "n"], "given twice"), ([], "is missing")):
        with pytest.raises(SystemExit):
            serve.parse(flags)
        assert f"--model {'is ' if said.startswith('given') else ''}{said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parse", "one", "other"),
    [
        (predict.parse, ["m", "a", "--output", "o", "--cpu-threads", "2"], ["m", "a", "--output_dir", "o", "--cpu_threads=2"]),
        (serve.parse, ["m", "--max-megabytes", "3"], ["m", "--max_megabytes", "3"]),
        (push_to_hub.parse, ["m", *PUSH, "--dry-run", "--output", "o"], ["m", "--repo_id", "me/name", "--dry_run", "--output-dir", "o"]),
        (check_leakage.parse, ["a", "--output", "o", "--max-distance", "5"], ["a", "--output-dir", "o", "--max_distance", "5"]),
        (gpu_check.parse, ["--output", "o", "--batch_sizes", "1", "2"], ["--output_dir", "o", "--batch-sizes", "1", "2"]),
        (train_seeds.parse, ["--seeds", "1", "--output_dir", "o", "--x-y", "2"], ["--seeds", "1", "--output", "o", "--x-y", "2"]),
        (prepare_folder.parse, ["--source", "s", "--output", "o", "--mask-values", "1=a"], ["--source", "s", "--output-dir", "o", "--mask_values", "1=a"]),
        (prepare_retouch.parse, ["--source", "s", "--output", "o", "--num-proc", "2"], ["--source", "s", "--output", "o", "--num_proc", "2"]),
        (evaluate.parse, ["--model", "m", "--dataset", "d", "--output", "o", "--cpu_threads", "1", "--use_cpu"], ["--model", "m", "--dataset", "d", "--output_dir", "o", "--cpu-threads", "1", "--use-cpu", "true"]),
    ],
)  # fmt: skip
def test_dashes_and_underscores_are_one_and_output_has_two_names(parse, one, other):
    assert parse(one) == parse(other)


def test_train_takes_dashes_and_output(tmp_path):
    model, data, training = parse_arguments(
        [
            "--dataset",
            "d",
            "--output",
            str(tmp_path),
            "--cpu-threads",
            "2",
            "--image-size=64",
            "--learning-rate",
            "0.5",
        ]
    )
    assert (model.cpu_threads, data.image_size) == (2, 64)
    assert (training.output_dir, training.learning_rate) == (str(tmp_path), 0.5)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"seed": 7, "learning_rate": 0.5, "bf16": False}))
    return str(path)


@pytest.mark.parametrize(
    "place",
    [
        lambda recipe: [recipe, "--dataset", "d", "--learning_rate", "0.25"],
        lambda recipe: ["--dataset", "d", "--learning_rate", "0.25", recipe],
        lambda recipe: ["--dataset", "d", recipe, "--learning_rate", "0.25"],
        lambda recipe: ["--dataset", "d", "--learning_rate", "0.25", "--recipe", recipe],
        lambda recipe: [f"--recipe={recipe}", "--dataset", "d", "--learning_rate", "0.25"],
        # A switch and a list do not swallow it, and text that ends like it is no recipe.
        lambda recipe: ["--dataset", "d", "--learning_rate", "0.25", "--use_cpu", recipe],
        lambda recipe: ["--dataset", "d", "--learning_rate", "0.25", "--auc-classes", "red", recipe],
        lambda recipe: [recipe, "--dataset", "d.json", "--learning_rate", "0.25"],
    ],
)
def test_a_recipe_may_stand_anywhere_and_flags_win(place, recipe, tmp_path):
    _, data, training = parse_arguments([*place(recipe), "--output_dir", str(tmp_path)])
    assert (training.seed, training.learning_rate) == (7, 0.25)
    assert data.auc_classes in ([], ["red"])


@pytest.mark.parametrize(
    "given", [["--recipe", "small_cpu"], ["--recipe=small_cpu.json"], ["small_cpu"], ["--use_cpu", "small_cpu.json"]]
)
def test_a_bare_name_means_the_recipe_that_comes_along(given, tmp_path, monkeypatch):
    """Unless there is a file of that name, and unless it is the value of a flag."""
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "small_cpu", *given, "--output_dir", str(tmp_path)]
    model, data, _ = parse_arguments(flags)
    assert (data.dataset, data.image_size, model.config["window_size"]) == ("small_cpu", 128, 8)
    Path("small_cpu.json").write_text('{"image_size": 64}')
    assert parse_arguments(flags)[1].image_size == (64 if given[-1].endswith("json") else 128)


def test_a_recipe_anywhere_that_is_missing_is_named_with_those_there_are():
    with pytest.raises(BadInputError, match=r"small_cup\.json: there is no such recipe; .* small_cpu, tiny_cpu"):
        parse_arguments(["--dataset", "d", "small_cup.json"])


@pytest.mark.parametrize(
    ("flags", "nearest"),
    [
        (["--lerning-rate", "1"], "did you mean --learning_rate"),
        (["--scale_jiter=0.1"], "did you mean --scale_jitter"),
        (["7", "--modle", "m"], "did you mean --model"),
    ],
)
def test_train_suggests_the_nearest_flag(flags, nearest):
    with pytest.raises(BadInputError) as caught:
        parse_arguments(["--dataset", "d", *flags])
    assert nearest in str(caught.value)
    with pytest.raises(BadInputError, match=r"--zzzzzz 1; see --help"):
        parse_arguments(["--dataset", "d", "--zzzzzz", "1"])


def test_two_recipes_are_refused(recipe):
    with pytest.raises(BadInputError, match="several recipes"):
        parse_arguments([recipe, "--dataset", "d", "--recipe", recipe])


def test_what_the_options_repeat_is_what_it_is_elsewhere():
    """They may import nothing that brings torch along."""
    served = serve.parse(["m"])
    assert (served.max_megabytes * 2**20, served.max_megapixels * 1e6) == (Limits().max_bytes, Limits().max_pixels)
    assert (served.queue, served.seconds) == (ServerSettings().waiting, ServerSettings().seconds)
    assert check_leakage.parse(["a", "--output", "o"]).max_distance == MAX_DISTANCE
    assert sorted(predict.VIEWS) == sorted(VIEWS)
    assert set(prepare_folder.MODALITIES) == set(AUGMENTATIONS)
    assert set(prepare_retouch.VENDORS) == {vendor.lower() for vendor in VENDORS}


def test_a_launcher_takes_only_its_own_folder_off_the_path(tmp_path, monkeypatch):
    own, other = tmp_path / "scripts", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(own), "", str(other), f"{other}/../scripts"])
    monkeypatch.setattr(launch, "start", lambda name, arguments: 0)
    with pytest.raises(SystemExit):
        launch.launch(str(own / "none.py"))
    assert sys.path == ["", str(other)]


def test_no_folder_of_scripts_is_named_like_a_package():
    assert {path.name for path in (ROOT / "scripts").iterdir() if path.is_dir()} - {"__pycache__"} == {
        "grids",
        "launch",
        "recipes",
    }


@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]])
def test_a_script_from_another_folder_gets_the_package_and_not_its_neighbour(launcher, tmp_path):
    """As scripts/evaluate.py lies beside scripts/train.py; under torchrun too."""
    scripts, packages = tmp_path / "scripts", tmp_path / "packages"
    scripts.mkdir()
    packages.mkdir()
    commands = tmp_path / "modeling_resformer" / "commands"
    commands.mkdir(parents=True)
    shutil.copy(ROOT / "modeling_resformer" / "commands" / "launch.py", commands)
    (commands.parent / "__init__.py").write_text("")
    (commands / "probe.py").write_text(
        "def parse(arguments):\n    pass\n\n\ndef main(arguments):\n    import evaluate\n\n    print(evaluate.NAME)\n"
    )
    (scripts / "evaluate.py").write_text("raise ImportError('the neighbour')\n")
    (packages / "evaluate.py").write_text("NAME = 'the package'\n")
    (scripts / "probe.py").write_text(LAUNCHER)
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, *launcher, str(scripts / "probe.py")],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "the package"
