"""What a fresh machine installs: pinned versions by default, the newest on request, and nothing twice."""

import importlib.util
import os
import re
import shutil
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement


ROOT = Path(__file__).parents[1]
NOT_PINNED = {"torch", "torchvision", "triton"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def direct_requirements() -> list[Requirement]:
    """Every requirement in setup.py, extras included, as setuptools is told."""
    told = {}
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **arguments: told.update(arguments))
        patch.chdir(ROOT)
        spec.loader.exec_module(module)
    extras = [line for lines in told["extras_require"].values() for line in lines]
    return [Requirement(line) for line in [*told["install_requires"], *extras]]


def test_everything_asked_for_is_pinned_within_its_bounds_except_torch():
    pinned = constraints()
    for requirement in direct_requirements():
        name = plain(requirement.name)
        if name not in NOT_PINNED:
            assert requirement.specifier.contains(pinned[name], prereleases=True), f"{requirement}: {pinned.get(name)}"
    assert not NOT_PINNED & set(pinned)
    named = {plain(requirement.name) for requirement in direct_requirements()}
    lines = [Requirement(line) for name in ("torch", "torchvision") for line in requires(name)]
    torchs = {plain(line.name) for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})}
    assert "sympy" in torchs and not (torchs - named) & set(pinned), "torch may ask for another version of it"
    assert not [name for name in pinned if name.startswith(("nvidia-", "cuda-"))]


@pytest.fixture
def checkout(tmp_path):
    """What make looks at, and an environment that is there already."""
    for name in ("Makefile", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in (".venv", ".venv-newest"):
        (tmp_path / folder / "bin").mkdir(parents=True)
        (tmp_path / folder / "bin" / "python").touch()
    return tmp_path


def planned(checkout: Path, *arguments: str) -> str:
    """What make would do."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONSTRAINTS")}
    environment = {name: value for name, value in environment.items() if not name.startswith("MAKE")}
    command = ["make", "-n", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True).stdout


def installed(checkout: Path, *arguments: str) -> None:
    """Leaves the stamp that make would leave."""
    (stamp,) = re.findall(r"^touch (\S+)$", planned(checkout, *arguments), re.MULTILINE)
    (checkout / stamp).touch()


@pytest.mark.parametrize("target", ["demo", "demo-oct", "test"])
def test_the_commands_install_the_pinned_versions(checkout, target):
    (line,) = [line for line in planned(checkout, target).splitlines() if "pip install" in line]
    assert line.startswith(".venv/bin/python ") and "--constraint constraints.txt" in line


def test_without_constraints_the_newest_go_into_an_environment_of_their_own(checkout):
    plan = planned(checkout, "test", "CONSTRAINTS=")
    (line,) = [line for line in plan.splitlines() if "pip install" in line]
    assert "--upgrade --upgrade-strategy eager" in line and "--constraint" not in line
    assert ".venv/" not in plan and ".venv-newest/bin/python -m pytest" in plan


def test_a_second_run_installs_nothing_until_a_file_or_the_choice_changes(checkout):
    installed(checkout, "test")
    assert "pip install" not in planned(checkout, "test")
    assert "pip install" in planned(checkout, "test", "CONSTRAINTS=")
    installed(checkout, "test", "CONSTRAINTS=")
    assert "pip install" not in planned(checkout, "test", "CONSTRAINTS=")
    for name in ("setup.py", "constraints.txt"):
        stamps = [path.stat().st_mtime for path in (checkout / ".venv").glob(".resformer-*")]
        os.utime(checkout / name, (max(stamps) + 5,) * 2)
        assert "pip install" in planned(checkout, "test"), name
        os.utime(checkout / name, (0, 0))


def test_the_workflow_runs_the_projects_own_script_pinned_and_weekly_without_pins():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert job["env"]["CONSTRAINTS"] == "${{ github.event_name != 'schedule' && 'constraints.txt' || '' }}"
    assert workflow[True]["schedule"], "YAML reads the key `on` as true"
