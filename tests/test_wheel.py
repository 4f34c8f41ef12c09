"""An installed wheel, and no checkout that Python could find: the commands, templates and recipes are there and work."""

import json
import zipfile
from pathlib import Path

import pytest
from fresh_process import packages_without, run_as_stranger


ROOT = Path(__file__).parents[1]
READY = ROOT / "hub_cards" / "resformer-lite-isic2017"
SAMPLE = ROOT / "examples" / "isic2017_sample"
# What the console script `resformer` of the entry point does.
RESFORMER = """
import os, sys
from importlib.util import find_spec
assert find_spec("modeling_resformer").origin.startswith(os.environ["PYTHONPATH"])
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="resformer")
sys.exit(command.load()())
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Every package of this environment, and this project by its wheel alone."""
    packages = packages_without(tmp_path_factory.mktemp("wheel") / "packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return packages


def resformer(installed, *arguments):
    return run_as_stranger(RESFORMER, installed, *map(str, arguments))


def test_it_holds_package_templates_and_recipes_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "modeling_resformer",
        "resformer_console.py",
    }
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "modeling_resformer").rglob("*.py")}
    inside = {name for name in names if name.startswith("modeling_resformer/shipped_files/")}
    assert {name for name in names if name.startswith("modeling_resformer/")} - inside == code
    assert {name.removeprefix("modeling_resformer/shipped_files/") for name in inside} == {
        "docs/network.png",
        "hub_cards/card.yaml",
        "hub_cards/model_card.md",
        *(f"hub_cards/dataset_card_{name}.md" for name in ("folder", "isic2017", "retouch")),
        *(f"hub_cards/space/{name}" for name in ("README.md", "analysis.py", "app.py", "requirements.txt")),
        *(
            path.relative_to(ROOT).as_posix()
            for name in ("pages", "web")
            for path in (ROOT / "hub_cards" / name).iterdir()
        ),
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts" / "recipes").glob("*.json")),
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts" / "grids").iterdir()),
    }


@pytest.mark.long
def test_the_console_command_predicts(installed, tmp_path):
    photo = sorted((READY / "examples").glob("*.jpg"))[0]
    resformer(installed, "predict", "--model", READY, photo, "--output", tmp_path / "out", "--device", "cpu")
    assert (tmp_path / "out" / "masks" / f"{photo.stem}.png").is_file()
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 2


@pytest.mark.slow  # every file of the wheel is looked for above
def test_a_repository_and_its_space_are_made_from_the_templates_inside(installed, tmp_path):
    terms = ["--repo-id", "org/resformer-lite-isic2017", "--dataset-id", "org/isic2017"]
    terms += ["--space-id", "org/try-resformer", "--with-space"]
    resformer(installed, "push-to-hub", READY, *terms, "--dry-run", "--output", tmp_path / "made")
    assert (tmp_path / "made" / "README.md").read_bytes() == (READY / "README.md").read_bytes()
    assert (tmp_path / "made-space" / "app.py").read_bytes() == (ROOT / "hub_cards" / "space" / "app.py").read_bytes()


def test_a_recipe_is_found_by_its_name_and_by_its_place_in_a_checkout(installed):
    """Asked of the module by its path, which spares the import of torch."""
    asked = """
import runpy, sys
recipes = runpy.run_path(sys.argv[1] + "/modeling_resformer/commands/launch.py")["load"]("training.recipes")
assert recipes.find_recipe("small_cpu") == recipes.find_recipe("scripts/recipes/small_cpu.json")
print(recipes.find_recipe("small_cpu").read_text(), recipes.recipe_names())
"""
    printed, _ = run_as_stranger(asked, installed, str(installed))
    assert (ROOT / "scripts" / "recipes" / "small_cpu.json").read_text() in printed
    assert "isic2017_paper" in printed


@pytest.mark.slow
def test_data_are_prepared_and_a_model_is_trained_and_evaluated(installed, tmp_path):
    data = ["--source", SAMPLE, "--splits", SAMPLE / "split.csv", "--image-size", "64", "--parquet"]
    resformer(installed, "prepare-isic2017", *data, "--output", tmp_path / "data")
    assert "ISIC" in (tmp_path / "data" / "parquet" / "README.md").read_text()
    flags = ["--dataset", tmp_path / "data", "--num_train_epochs", "1", "--image_size", "32", "--use_cpu"]
    run = tmp_path / "run"
    resformer(installed, "train", "scripts/recipes/tiny_cpu.json", *flags, "--output_dir", run, "--yes")
    assert json.loads((run / "run.json").read_text())["training"]["epochs"] == 1
    again = ["--model", run, "--dataset", tmp_path / "data", "--output", tmp_path / "again", "--use_cpu"]
    resformer(installed, "evaluate", *again)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (run, tmp_path / "again"))
    assert first["model"]["dice"] == second["model"]["dice"]
