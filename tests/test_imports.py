"""What the package costs and needs: the core alone, at the price of transformers itself; a wheel stands without checkout."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fresh_process import packages_without, run_as_stranger


ROOT = Path(__file__).parents[1]
HEAVY = (
    "accelerate",
    "datasets",
    "evaluate",
    "imagehash",
    "matplotlib",
    "monai",
    "pandas",
    "scipy",
    "SimpleITK",
    "simpleitk",
    "sklearn",
    "scikit_learn",
    "tensorboard",
)

# What transformers' own classes load is theirs, and changes with every release: counted is what comes on top.
LOADED = """
import json, sys
from transformers import AutoBackbone, AutoImageProcessor, AutoModel, PilBackend, Pipeline, TorchvisionBackend
before = set(sys.modules)
import modeling_resformer
print(json.dumps(sorted(set(sys.modules) - before)))
"""
OURS = {
    "modeling_resformer",
    "modeling_resformer.backbone_resformer",
    "modeling_resformer.configuration_resformer",
    "modeling_resformer.fusing_resformer",
    "modeling_resformer.image_processing_pil_resformer",
    "modeling_resformer.image_processing_resformer",
    "modeling_resformer.modeling_resformer",
    "modeling_resformer.pipeline_resformer",
}

FORWARD = """
import torch
from modeling_resformer import ResFormerConfig, ResFormerForMultiTask
config = ResFormerConfig(hidden_sizes=[8, 16], cnn_depths=[1, 1], transformer_depths=[2, 2], num_attention_heads=[1, 2])
output = ResFormerForMultiTask(config).eval()(torch.zeros(1, 3, 40, 50))
assert output.segmentation_logits.shape == (1, 2, 40, 50)
"""


def test_importing_loads_the_hub_files_and_no_heavy_extra():
    command = [sys.executable, "-c", LOADED]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, cwd=ROOT).stdout
    loaded = json.loads(output.splitlines()[-1])
    assert {name for name in loaded if name.split(".")[0] == "modeling_resformer"} == OURS
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


@pytest.mark.long
def test_a_wheel_runs_where_only_the_core_is_installed(wheel, tmp_path):
    packages = packages_without(tmp_path / "packages", "torchvision", *HEAVY)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    run_as_stranger(FORWARD, packages)


@pytest.mark.parametrize(
    "name", ["backbone", "configuration", "fusing", "modeling", "image_processing", "image_processing_pil", "pipeline"]
)
def test_hub_files_follow_the_loaders_rules(name):
    """Flat siblings by `from .file import name`, nothing absolute from this package, core packages only."""
    source = (ROOT / "modeling_resformer" / f"{name}_resformer.py").read_text()
    roots = set()
    for line in source.splitlines():
        words = line.split()
        if words[:1] == ["from"] and len(words) > 2 and words[2] == "import":
            module = words[1]
            assert not module.startswith("..") and module != ".", line
            if module.startswith("."):
                assert (ROOT / "modeling_resformer" / f"{module[1:]}.py").exists(), line
            else:
                roots.add(module.split(".")[0])
        elif words[:1] == ["import"]:
            roots.add(words[1].split(".")[0])
    third_party = roots - set(sys.stdlib_module_names)
    assert third_party <= {"torch", "transformers", "huggingface_hub", "numpy", "PIL"}


def test_rooms_import_nothing_from_the_commands():
    package = ROOT / "modeling_resformer"
    wrong = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.parent.name != "commands"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and "commands" in (node.module or "").split(".")
    ]
    assert wrong == []


def test_no_two_files_of_the_package_have_one_name():
    names = [path.name for path in (ROOT / "modeling_resformer").rglob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_no_two_modules_call_different_things_by_one_name():
    """Functions and classes without an underscore; every command has its own of the last three."""
    places: dict[str, list[str]] = {}
    for path in (ROOT / "modeling_resformer").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.name)
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert shared.keys() <= {"main", "parse", "make_parser"}, shared


def test_no_test_reaches_into_another_or_edits_the_path():
    """What tests share lies in tests/helpers, where pytest's pythonpath finds it."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                assert not [name for name in names if name.startswith(("test_", "conftest"))], path
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("sys.path."):
                raise AssertionError(f"{path}: {ast.unparse(node)}")
