"""Write constraints.txt from the packages that are installed: the exact version of each, torch's own world left out.

    make update-constraints

installs the newest of everything into an environment of its own, runs the tests there, and, once they pass, this script:

    python scripts/update_constraints.py --output constraints.txt

Pinned is what the package and its extras ask for, directly or through others. torch and torchvision are not, nor what only
they bring: which build of them fits depends on the machine.
"""

import argparse
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from packaging.requirements import Requirement


PACKAGE = "modeling-resformer"
LEFT_OUT = {"torch", "torchvision"}
HEADER = """\
# What `make demo` and `make test` install: the versions with which every test was last green.
# Raised by `make update-constraints`; `make test CONSTRAINTS=` takes the newest instead.
"""


def plain_name(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted_by(name: str, extras: Sequence[str]) -> Iterator[Requirement]:
    """What an installed distribution asks for on this machine, with these of its extras."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def resolved_versions() -> dict[str, str]:
    """Version by name of everything the package and all its extras bring, torch and torchvision apart.

    Raises:
        PackageNotFoundError: something is not installed.
    """
    versions: dict[str, str] = {}
    every_extra = distribution(PACKAGE).metadata.get_all("Provides-Extra") or []
    waiting = list(wanted_by(PACKAGE, every_extra))
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name = plain_name(requirement.name)
        key = name, frozenset(requirement.extras)
        if name in LEFT_OUT or key in seen:
            continue
        seen.add(key)
        versions[name] = distribution(name).version
        waiting += wanted_by(name, sorted(requirement.extras))
    return versions


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    output = parser.parse_args(argv).output
    try:
        versions = resolved_versions()
    except PackageNotFoundError as error:
        sys.stderr.write(f"error: {error.name} is not installed; install '.[dev,space,export]' first\n")
        return 1
    beside = output.with_name(output.name + ".partial")
    beside.write_text(HEADER + "".join(f"{name}=={versions[name]}\n" for name in sorted(versions)), encoding="utf-8")
    beside.replace(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
