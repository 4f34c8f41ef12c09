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
            command = COMMANDS[name](Path(scratch))
            for fault in ("SIGKILL", "disk full"):
                if fault == "SIGKILL":
                    trials = try_kills(command, Path(scratch) / "kills", given.kills, given.seed)
                elif name != "push":  # which writes no file here
                    trials = try_full_disk(command, Path(scratch) / "full", SIZES)
                else:
                    continue
                bad += trials.counts.pop("bad", 0)
                outcome = ", ".join(f"{count} {kind}" for kind, count in sorted(trials.counts.items()))
                number = sum(trials.counts.values())
                lines.append(f"| {name} | {fault} | {number} | {outcome} | {len(trials.problems)} |")
                sys.stdout.write("\n".join([lines[-1], *(f"    {problem}" for problem in trials.problems)]) + "\n")
                sys.stdout.flush()
        if given.output is not None:
            given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
