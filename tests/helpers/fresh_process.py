"""A process that sees chosen packages only, and not this project where they lack it."""

import os
import subprocess
import sys
from pathlib import Path

import torch


ROOT = Path(__file__).parents[2]


def packages_without(folder: Path, *hidden: str, with_ours: bool = False) -> Path:
    """A folder of links to this environment's packages, less those `hidden`, and with this project only if asked for."""
    folder.mkdir()
    for source in Path(torch.__file__).parents[1].iterdir():
        if not source.name.lower().startswith(("__editable__", "modeling_resformer", *hidden)):
            (folder / source.name).symlink_to(source)
    if with_ours:
        (folder / "modeling_resformer").symlink_to(ROOT / "modeling_resformer")
    return folder


def run_as_stranger(script: str, packages: Path, *arguments: str) -> tuple[str, str]:
    """Runs a script in a fresh process that sees `packages` only; returns what it printed and what it logged."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "HF_HOME": str(packages.parent / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-S", "-c", script, *arguments]
    result = subprocess.run(command, env=environment, cwd=packages.parent, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout, result.stderr
