"""Reads damaged files by the thousand, each in a child with limits of time and memory, and counts what became of them.

    python scripts/fuzz.py --mutants 1000
    python scripts/fuzz.py nifti dicom --mutants 10000 --output benchmarks/fuzz/README.md

An outcome is fine if the file was read, or refused in one line of ours that names it. All else is bad: a traceback, a message
of several lines, a crash of the interpreter, a hang, memory that the file does not justify, a file written elsewhere, a
connection, a program or a pickle begun. Bad ones are listed with the number of the first such mutant, which
`--first N --mutants 1` makes again. The exit status is 1 where there is any.
"""

import argparse
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

HEADER = [
    "target",
    "mutants",
    "read",
    "refused",
    "traceback",
    "message",
    "crash",
    "hang",
    "memory",
    "forbidden",
    "slowest",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="all by default")
    parser.add_argument("--mutants", type=int, default=1000, help="of each target (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (%(default)s)")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    given = parser.parse_args()
    from fuzz_targets import TARGETS
    from fuzzing import fuzz

    if unknown := sorted(set(given.targets) - set(TARGETS)):
        parser.error(f"no target {unknown[0]}; expected some of {', '.join(TARGETS)}")
    lines, bad = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)], 0
    for name in given.targets or TARGETS:
        with tempfile.TemporaryDirectory(prefix="resformer-fuzz-") as folder:
            tally = fuzz(TARGETS[name], range(given.first, given.first + given.mutants), Path(folder))
        counts = [tally.counts[kind] for kind in HEADER[2:-1]]
        lines.append("| " + " | ".join(map(str, [name, given.mutants, *counts, f"{tally.slowest:.1f} s"])) + " |")
        sys.stdout.write(lines[-1] + "\n")
        for outcome, number in sorted(tally.first.items(), key=lambda pair: pair[1]):
            sys.stdout.write(f"    {number}: {outcome}\n")
        sys.stdout.flush()
        bad += tally.counts["bad"]
        if given.output is not None:
            given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
