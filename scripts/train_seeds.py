r"""Train the same run with several seeds, and tabulate mean and standard deviation.

    python scripts/train_seeds.py --seeds 0 1 2 3 4 --output_dir runs/isic2017 \
        scripts/recipes/isic2017_recommended.json --dataset data/isic2017 --bf16

Every other argument goes to `scripts/train.py`, which runs once a seed, in `OUTPUT_DIR/seed_N`; on every GPU of a machine:

    python scripts/train_seeds.py --seeds 0 1 2 --launcher "accelerate launch" --output_dir runs/isic2017 ...

The same command goes on after a kill: finished seeds are kept, an interrupted one resumes from its last checkpoint. Into
the output folder go `seeds.json`, and the tables `seeds.md` and `seeds.tex` (with the package booktabs), a row for every
class and for every vendor where the dataset has vendors.

The exit status is 1 where a seed failed; the others are trained and tabulated all the same.
"""

import json
import logging
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from modeling_resformer.errors import BadInputError, named_write_failure
from modeling_resformer.files import write_whole
from modeling_resformer.options.train_seeds import parse
from modeling_resformer.training.seeds import Style, is_finished, latex_tables, markdown_tables, summarise_seeds


TRAIN = Path(__file__).with_name("train.py")

logger = logging.getLogger(__name__)


def train_seed(seed: int, folder: Path, launcher: Sequence[str], passed_on: Sequence[str]) -> bool:
    """Train one seed to its end, unless that has been done; whether it is finished."""
    if is_finished(folder):
        logger.info("== seed %d: finished already, in %s", seed, folder)
        return True
    resuming = [] if "--resume_from_checkpoint" in passed_on else ["--resume_from_checkpoint", "true"]
    own = ["--seed", str(seed), "--output_dir", str(folder), *resuming]
    logger.info("== seed %d: into %s", seed, folder)
    status = subprocess.run([*launcher, str(TRAIN), *passed_on, *own]).returncode
    if status:
        logger.error("seed %d failed with status %d; what went wrong stands above", seed, status)
    return status == 0 and is_finished(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where a seed failed."""
    arguments, passed_on = parse(sys.argv[1:] if argv is None else argv, __doc__)
    launcher = [sys.executable] if arguments.launcher is None else shlex.split(arguments.launcher)
    folders = {seed: arguments.output_dir / f"seed_{seed}" for seed in dict.fromkeys(arguments.seeds)}
    finished = {seed: train_seed(seed, folder, launcher, passed_on) for seed, folder in folders.items()}
    failed = [seed for seed, done in finished.items() if not done]
    runs = {seed: folder for seed, folder in folders.items() if finished[seed]}
    if runs:
        style = Style(percent=not arguments.fractions, decimals=arguments.decimals)
        try:
            summary = summarise_seeds(runs, failed)
            with named_write_failure(arguments.output_dir, "--output_dir"):
                write_whole(arguments.output_dir / "seeds.json", json.dumps(summary, indent=2) + "\n")
                write_whole(arguments.output_dir / "seeds.tex", latex_tables(summary, style))
                write_whole(arguments.output_dir / "seeds.md", markdown_tables(summary, style))
        except BadInputError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        sys.stdout.write(markdown_tables(summary, style))
    if failed:
        sys.stderr.write(f"error: seed {', '.join(map(str, failed))} failed; the same command tries again.\n")
    return 1 if failed else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
