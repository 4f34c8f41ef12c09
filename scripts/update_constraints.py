"""Write constraints.txt from the packages that are installed: the exact version of each, torch's own world left out.

    make update-constraints

installs the newest of everything into an environment of its own, runs the tests there, and, once they pass, this script:

    python scripts/update_constraints.py --output constraints.txt

Pinned is what the package and its extras ask for, directly or through others. torch and torchvision are not, nor what they
bring: which build of them fits depends on the machine, and another one may ask for other versions of what it stands on.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

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


def brought_by(waiting: Sequence[Requirement]) -> set[str]:
    """Names of everything that these requirements bring, themselves included, but what lies behind torch.

    Raises:
        PackageNotFoundError: something is not installed.
    """
    queue, seen = list(waiting), set()
    while queue:
        requirement = queue.pop()
        key = plain_name(requirement.name), frozenset(requirement.extras)
        if key[0] not in LEFT_OUT and key not in seen:
            seen.add(key)
            queue += wanted_by(requirement.name, sorted(requirement.extras))
    return {name for name, _ in seen}


def resolved_versions() -> dict[str, str]:
    """Version by name of everything the package and all its extras bring, less torch, torchvision and what they bring.

    What the package itself asks for is pinned also where torch brings it too (numpy, Pillow).

    Raises:
        PackageNotFoundError: something is not installed.
    """
    own = list(wanted_by(PACKAGE, distribution(PACKAGE).metadata.get_all("Provides-Extra") or []))
    named = {plain_name(requirement.name) for requirement in own} - LEFT_OUT
    torchs = brought_by([requirement for name in sorted(LEFT_OUT) for requirement in wanted_by(name, ())])
    return {name: distribution(name).version for name in named | (brought_by(own) - torchs)}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    output = parser.parse_args(argv).output
    try:
        versions = resolved_versions()
    except PackageNotFoundError as error:
        sys.stderr.write(
            f"error: {error.name} is not installed; install '.[dev,space,notebook,export,trackio]' first\n"
        )
        return 1
    beside = output.with_name(output.name + ".partial")
    beside.write_text(HEADER + "".join(f"{name}=={versions[name]}\n" for name in sorted(versions)), encoding="utf-8")
    beside.replace(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
