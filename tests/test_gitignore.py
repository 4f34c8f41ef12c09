"""`git add .` never takes data or runs, and nothing that belongs to the project is ignored."""

import subprocess
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


def git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


pytestmark = pytest.mark.skipif(
    git("ls-files", "--error-unmatch", "setup.py").returncode != 0, reason="needs a git checkout"
)


@pytest.mark.parametrize("path", ["data/retouch/data-00000-of-00001.arrow", "runs/isic2017/run.json", "outputs/x"])
def test_data_and_runs_are_ignored(path):
    assert git("check-ignore", path).stdout.strip() == path


def test_no_file_of_the_project_is_ignored():
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard").stdout == ""
    assert git("check-ignore", "modeling_resformer/data/new_file.py").returncode == 1
