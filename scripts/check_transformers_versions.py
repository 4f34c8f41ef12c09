"""Run the core tests with the oldest and the newest supported versions of transformers and what it stands on.

    python scripts/check_transformers_versions.py --folder outputs/versions

Each gets a virtual environment of its own in the folder, kept for the next time: the oldest with every lower bound of
setup.py, the newest with what pip finds within the bounds. Where an old version can no longer be had for this machine:

    python scripts/check_transformers_versions.py --folder outputs/versions --unpinned torch torchvision

Options behind -- go to pip, e.g. -- --index-url <your CPU-only wheel index>. The exit status is 1 where a test failed.
"""

import argparse
import json
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path


ROOT = Path(__file__).parents[1]
CORE_TESTS = (
    "test_configuration_resformer",
    "test_modeling_resformer",
    "test_loss",
    "test_image_processing_resformer",
    "test_pipeline_resformer",
    "test_remote_code",
    "test_versioning",
    "test_handler",
)
SHOWN = ("transformers", "huggingface-hub", "torch", "torchvision", "safetensors", "pillow", "numpy")
TOOLS = ("pytest", "pytest-timeout", "pyyaml")
VERSIONS = (
    "import json, sys; from importlib.metadata import version; print(json.dumps([version(n) for n in sys.argv[1:]]))"
)


def requirements() -> list[str]:
    """What the core and torchvision need, as setup.py says."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    core = re.findall(r'"([^"]+)"', re.search(r"install_requires=\[(.*?)\]", text, re.DOTALL)[1])
    return [*core, re.search(r'"(torchvision[^"]+)"', text)[1]]


def oldest(requirement: str, unpinned: Sequence[str]) -> str:
    """`name>=1.2` as `name==1.2.*`."""
    name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+).*", requirement).groups()
    return requirement if name in unpinned else f"{name}=={bound}.*"


def prepare(folder: Path, wanted: Sequence[str], pip_arguments: Sequence[str]) -> Path:
    """Makes the environment where it is not there; returns its Python."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted, *TOOLS, *pip_arguments], check=True)
    return python


def check(name: str, python: Path) -> tuple[list[str], bool]:
    """Runs the core tests; returns a line of the table and whether they passed."""
    versions = subprocess.run([python, "-c", VERSIONS, *SHOWN], capture_output=True, text=True, check=True).stdout
    tests = [f"tests/{test}.py" for test in CORE_TESTS]
    command = [python, "-m", "pytest", *tests, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout[-6000:] + done.stderr[-2000:])
    lines = done.stdout.strip().splitlines()
    return [name, *json.loads(versions), lines[-1] if lines else "no tests"], done.returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "versions", help="for the environments")
    parser.add_argument("--unpinned", nargs="*", default=[], help="packages that need not be the oldest")
    parser.add_argument("pip_arguments", nargs="*", help="behind --, passed to pip")
    options = parser.parse_args(argv)
    wanted = requirements()
    table, passed = [["environment", *SHOWN, "core tests"]], True
    for name, needed in (("oldest", [oldest(one, options.unpinned) for one in wanted]), ("newest", wanted)):
        line, fine = check(name, prepare(options.folder.resolve() / name, needed, options.pip_arguments))
        table.append(line)
        passed = passed and fine
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        sys.stdout.write("  ".join(map(str.ljust, line, widths)).rstrip() + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
