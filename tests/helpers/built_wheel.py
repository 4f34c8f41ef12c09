"""The wheel of this checkout, built beside it, so that no file of an earlier build gets into it."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


ROOT = Path(__file__).parents[2]
SOURCES = ("modeling_resformer", "hub_cards", "scripts", "docs")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.safetensors", "shipped_files")


def build_wheel(folder: Path) -> Path:
    """Path of the wheel below `folder`."""
    checkout = folder / "checkout"
    for name in SOURCES:
        shutil.copytree(ROOT / name, checkout / name, ignore=NOT_COPIED)
    for name in ("setup.py", "pyproject.toml", "resformer_console.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    # An older setuptools builds no wheel by itself; pip then fetches a newer one.
    alone = ["--no-build-isolation"] if int(version("setuptools").split(".")[0]) >= 71 else []
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", *alone, "--wheel-dir", str(folder)]
    subprocess.run([*command, str(checkout)], check=True, timeout=300, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
