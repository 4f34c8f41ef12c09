"""Kills prepare, train, predict and push at random moments, and fills their disks; counts what was whole afterwards.

    python scripts/faults.py --kills 25
    python scripts/faults.py predict --kills 100 --output benchmarks/faults/README.md

After every SIGKILL the old result or the new one must be there, or none, and nothing between; a second run of the same command
must end as one that was never killed, and leave nothing of the first behind. With files limited to some number of bytes, as
on a full disk, the command must end in one line that says so, and with room as ever. The exit status is 1 otherwise.
"""

import argparse
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
SIZES = (100, 1_000, 5_000, 20_000, 100_000, 300_000)  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", help="prepare, train, predict, push; all by default")
    parser.add_argument("--kills", type=int, default=25, help="of each command (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    given = parser.parse_args()
    from faults import COMMANDS, try_full_disk, try_kills

    lines, bad = (
        ["| command | fault | trials | outcome | not whole or not finished by a rerun |", "|---|---|---|---|---|"],
        0,
    )
    for name in given.commands or COMMANDS:
        with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
            folder = Path(scratch)
            command = COMMANDS[name](folder)
            tried = {"SIGKILL": try_kills(command, folder / "kills", given.kills, given.seed)}
            if name != "push":  # which writes no file here
                tried["disk full"] = try_full_disk(command, folder / "full", list(SIZES))
        for fault, trials in tried.items():
            counts = {outcome: count for outcome, count in trials.counts.items() if outcome != "bad"}
            outcome = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            lines.append(f"| {name} | {fault} | {sum(counts.values())} | {outcome} | {trials.counts['bad']} |")
            sys.stdout.write("\n".join([lines[-1], *(f"    {problem}" for problem in trials.problems)]) + "\n")
            sys.stdout.flush()
            bad += trials.counts["bad"]
        if given.output is not None:
            given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
