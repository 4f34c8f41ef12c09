"""The same training once a seed, each in a process of its own, and the tables of what came of them."""

import json
import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import named_write_failure
from ..files import write_whole
from .seeds import Style, is_finished, latex_tables, markdown_tables, summarise_seeds


TRAIN = ("-m", "modeling_resformer.commands.train")

logger = logging.getLogger(__name__)


def train_seeds(
    seeds: Sequence[int], output: Path, launcher: Sequence[str], passed_on: Sequence[str], style: Style
) -> tuple[list[int], str]:
    """Trains every seed that is not finished, in `output/seed_N`, and writes `seeds.json`, `seeds.md` and `seeds.tex`.

    Args:
        seeds: one run each.
        output: folder of the runs and tables.
        launcher: what starts a module by `-m`, such as Python or `accelerate launch`.
        passed_on: arguments of every run.
        style: of the tables.

    Returns:
        The seeds that failed, and the Markdown tables of the others, empty where there are none.

    Raises:
        BadInputError: the runs differ in more than their seed, or the tables cannot be written.
    """
    folders = {seed: output / f"seed_{seed}" for seed in dict.fromkeys(seeds)}
    finished = {seed: train_seed(seed, folder, launcher, passed_on) for seed, folder in folders.items()}
    failed = [seed for seed, done in finished.items() if not done]
    runs = {seed: folder for seed, folder in folders.items() if finished[seed]}
    if not runs:
        return failed, ""
    summary = summarise_seeds(runs, failed)
    with named_write_failure(output, "--output_dir"):
        write_whole(output / "seeds.json", json.dumps(summary, indent=2) + "\n")
        write_whole(output / "seeds.tex", latex_tables(summary, style))
        write_whole(output / "seeds.md", markdown_tables(summary, style))
    return failed, markdown_tables(summary, style)


def train_seed(seed: int, folder: Path, launcher: Sequence[str], passed_on: Sequence[str]) -> bool:
    """Train one seed to its end, unless that has been done; whether it is finished."""
    return train_to_end(f"seed {seed}", folder, launcher, passed_on, ["--seed", str(seed)])


def train_to_end(
    title: str, folder: Path, launcher: Sequence[str], passed_on: Sequence[str], own: Sequence[str]
) -> bool:
    """Train one of several runs to its end, unless that has been done; whether it is finished.

    Args:
        title: what the run is called.
        folder: of the run.
        launcher: what starts a module by `-m`.
        passed_on: arguments that all runs have.
        own: arguments of this run.
    """
    if is_finished(folder):
        logger.info("== %s: finished already, in %s", title, folder)
        return True
    resuming = [] if "--resume_from_checkpoint" in passed_on else ["--resume_from_checkpoint", "true"]
    logger.info("== %s: into %s", title, folder)
    status = subprocess.run([*launcher, *TRAIN, *passed_on, *own, "--output_dir", str(folder), *resuming]).returncode
    if status:
        logger.error("%s failed with status %d; what went wrong stands above", title, status)
    return status == 0 and is_finished(folder)
