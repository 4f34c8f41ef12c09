"""The same training once a fold, each in a process of its own; what came of them, pooled and tabulated.

`folds.json`, of which the first four stand there from the start and refuse other settings:

    {"number": 5, "seed": 0, "near_duplicates": {"groups": 9, "cases": 18} or null where nobody looked,
     "started_with": {...},                settings of every run, as a recipe
     "folds": [0, 1, 2, 3, 4], "failed": [], "split": "test", "images": 2000, "cases": 2000,
     "commits": [...], "settings": {...}, "dataset": {"name": ..., "fingerprint": ..., "totals": {"rows": 2000, ...}},
     "model": {"dice": {"mean": ..., "std": ..., "n": 5, "values": {"0": ..., ...}}, ...},
     "group_by": ..., "groups": {...},     as in seeds.json
     "pooled": {...} or null}              results.json of all cases, once every fold is finished
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.fold_folders import FOLDS_NAME, fold_folders
from ..data.folds import Folds, find_groups, read_groups
from ..data.prepared import PreparedDataset, load_prepared
from ..data.splits import totals, write_manifest
from ..errors import BadInputError, named_write_failure
from ..evaluation.evaluation import Scoring
from ..evaluation.per_case import write_per_case
from ..evaluation.report_page import write_pages
from ..evaluation.results import results_of, write_results
from ..files import check_writable, whole_file, write_whole
from ..metrics.scores import Bootstrap
from .arguments import parse_arguments
from .fold_pooling import pool_folds
from .run_record import recipe_of
from .seed_runs import train_to_end
from .seeds import Style, check_alike, is_finished, latex_tables, markdown_tables, read_of_run, spread


TABLE = "folds.csv"

logger = logging.getLogger(__name__)


def train_folds(
    number: int,
    output: Path,
    launcher: Sequence[str],
    passed_on: Sequence[str],
    style: Style,
    leakage_check: bool = True,
) -> tuple[list[int], str]:
    """Trains every fold that is not finished, in `output/fold-N`, and writes what came of all.

    Args:
        number: of folds.
        output: folder of the runs, pooled results and tables.
        launcher: what starts a module by `-m`, such as Python or `accelerate launch`.
        passed_on: arguments of every run.
        style: of the tables.
        leakage_check: look for near-duplicates, to keep them in one fold.

    Returns:
        The folds that failed, and the Markdown tables of the others, empty where there are none.

    Raises:
        BadInputError: arguments or data are of no use, the folder holds folds of other settings, or it cannot be written.
    """
    check_writable(output, "--output_dir")
    model_args, data_args, training_args = parse_arguments([*passed_on, "--output_dir", str(output)])
    prepared = load_prepared(data_args.dataset)
    scoring = Scoring(Bootstrap(data_args.bootstrap_samples), data_args.group_by, data_args.per_case_format)
    scoring.column(next(iter(prepared.dataset.values())))
    settings = recipe_of(model_args, data_args.with_augmentation(prepared.modality), training_args)
    with named_write_failure(output, "--output_dir"):
        folds, begun = settle_folds(output, number, training_args.seed, prepared, settings, leakage_check)
        manifests = write_manifests(output, folds)
    folders = list(fold_folders(output, number))
    failed = [
        fold
        for fold, (folder, manifest) in enumerate(zip(folders, manifests, strict=True))
        if not train_to_end(f"fold {fold}", folder, launcher, passed_on, ["--splits", str(manifest)])
    ]
    finished = {fold: folder for fold, folder in enumerate(folders) if is_finished(folder)}
    if not finished:
        return failed, ""
    results = {fold: read_of_run(folder / "results.json") for fold, folder in finished.items()}
    summary = begun | summarise_folds(finished, failed, results)
    with named_write_failure(output, "--output_dir"):
        if not failed:
            evaluation = pool_folds(
                output, folds, prepared, [*results.values()], scoring, data_args.auc_classes, training_args.use_cpu
            )
            write_per_case(evaluation, output)
            write_results(evaluation, output)
            write_pages(evaluation, output)
            summary["pooled"] = results_of(evaluation)
        write_whole(output / FOLDS_NAME, json.dumps(summary, indent=2) + "\n")
        write_whole(output / "folds.tex", latex_tables(summary, style))
        write_whole(output / "folds.md", markdown_tables(summary, style))
    return failed, markdown_tables(summary, style)


def settle_folds(
    output: Path,
    number: int,
    seed: int,
    prepared: PreparedDataset,
    settings: Mapping[str, Any],
    leakage_check: bool,
) -> tuple[Folds, dict[str, Any]]:
    """The folds, drawn once and written down, or those that stand in the folder; and what `folds.json` begins with.

    Raises:
        BadInputError: those in the folder are of another number, seed, dataset or other settings.
    """
    before = read_of_run(output / FOLDS_NAME) if (output / FOLDS_NAME).is_file() else None
    there = before is not None and (output / TABLE).is_file()
    groups = read_groups(output / TABLE) if there else find_groups(prepared, number) if leakage_check else []
    folds = Folds.of(prepared, number, seed, groups)
    looked = leakage_check and {"groups": len(groups), "cases": sum(map(len, groups))}
    begun = {"number": number, "seed": seed, "near_duplicates": looked or None, "started_with": dict(settings)}
    begun = json.loads(json.dumps(begun))
    if there:
        _check_same_folds(output, before, begun, folds)
    else:
        write_whole(output / TABLE, folds.table())
        write_whole(output / FOLDS_NAME, json.dumps(begun, indent=2) + "\n")
    return folds, begun


def _check_same_folds(output: Path, before: Mapping[str, Any], begun: Mapping[str, Any], folds: Folds) -> None:
    old, new = ({**one, **one.get("started_with", {})} for one in (before, begun))
    names = {*begun, *before.get("started_with", {}), *begun["started_with"]} - {"started_with"}
    differing = sorted(name for name in names if old.get(name) != new.get(name))
    if not differing and (output / TABLE).read_text(encoding="utf-8") != folds.table():
        differing = [f"the cases or labels of {TABLE}"]
    if differing:
        raise BadInputError(
            f"{output}: was begun with other folds or settings ({', '.join(differing)}); expected the same command, or "
            "another --output_dir to start over."
        )


def write_manifests(output: Path, folds: Folds) -> list[Path]:
    """Writes the splits of every fold beside its run; where they stand."""
    manifests = []
    for fold, folder in enumerate(fold_folders(output, folds.number)):
        manifests.append(folder / f"fold_{fold}_of_{folds.number}.csv")
        with whole_file(manifests[-1]) as partial:
            write_manifest(folds.splits(fold), partial)
    return manifests


def summarise_folds(
    runs: Mapping[int, Path], failed: Sequence[int], results: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """What `folds.json` says of the runs; `pooled` is null.

    Args:
        runs: output folder of every finished run by its fold.
        failed: folds whose runs did not finish.
        results: `results.json` by fold.

    Raises:
        BadInputError: the runs differ in more than their fold.
    """
    records = {fold: read_of_run(folder / "run.json") for fold, folder in runs.items()}
    check_alike(runs, records)
    data = next(iter(records.values()))["dataset"]
    return {
        "folds": sorted(runs),
        "failed": sorted(failed),
        "split": "test",
        **{key: sum(result[key] for result in results.values()) for key in ("images", "cases")},
        "dataset": {"name": data["name"], "fingerprint": data["fingerprint"], "totals": totals(data["splits"])},
        **spread(results, records),
        "pooled": None,
    }
