"""From raw files to a finished folder in one step: unpack, build, check, report, rename."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    are_progress_bars_disabled,
    concatenate_datasets,
    disable_progress_bars,
    enable_progress_bars,
)

from ..errors import BadInputError, named_worker_failure, read_skipped
from ..files import finished_folder, work_folder
from ..limits import DEFAULT_LIMITS, InputLimits
from .archives import unpack
from .builder import TABLES_BESIDE, CaseBuilder, source_fingerprint
from .contact_sheet import contact_sheet
from .dataset_report import Report, format_report, make_report
from .dataset_repository import push, write_card, write_parquet
from .exclusive_labels import labels_exclude
from .leakage import Match, compare, linked_cases, summarise, write_matches
from .prepared import METADATA_NAME, is_prepared
from .splits import SPLIT_NAMES, write_manifest


SHARD_SIZE = "32MB"  # `datasets` needs about four times that while it writes a shard: no more than one volume does


@dataclass(frozen=True)
class Preparation:
    """What every `scripts/prepare_*.py` shares.

    Args:
        source: raw folder or zip archive.
        output: folder to write; it appears when complete, or not at all.
        splits, validation_fraction, test_fraction, seed, image_size, uncompressed, allow_missing, on_error, limits: see
            `PreparationConfig`.
        leakage_check: look for cases of different splits that look the same.
        group_near_duplicates: draw the split so that such cases go into the same split.
        parquet: also write `output/parquet`, ready for the Hub.
        card: template of the dataset card in it.
        push_to_hub: dataset repository to push it to; private unless `public`.
        gated: the source may only be shared under an agreement, so that a push needs `agreement_allows_sharing`.
        num_proc: processes.
        overwrite: replace an existing output.
    """

    source: Path
    output: Path
    splits: Path | None = None
    validation_fraction: float = 0.0
    test_fraction: float = 0.0
    seed: int = 0
    image_size: tuple[int, int] | None = None
    uncompressed: bool = False
    allow_missing: bool = False
    on_error: str = "raise"
    limits: InputLimits = DEFAULT_LIMITS
    leakage_check: bool = True
    group_near_duplicates: bool = False
    parquet: bool = False
    card: Path | None = None
    push_to_hub: str | None = None
    public: bool = False
    gated: bool = False
    agreement_allows_sharing: bool = False
    num_proc: int | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Refuses what cannot end well before any work is done."""
        if not self.source.exists():
            raise BadInputError(
                f"{self.source}: no such file or folder; give the raw folder or zip as the source; see docs/data.md"
            )
        if self.group_near_duplicates:
            self._check_grouping()
        if self.push_to_hub is None or not self.gated:
            return
        if not self.agreement_allows_sharing:
            raise BadInputError(
                f"--push-to-hub {self.push_to_hub}: these data are gated and may not be redistributed; if your agreement "
                "with the organisers allows a private, gated copy, say so with --agreement-allows-sharing"
            )
        if self.public:
            raise BadInputError(f"--push-to-hub {self.push_to_hub}: gated data are never pushed --public")

    def _check_grouping(self) -> None:
        if self.splits is not None or not (self.validation_fraction or self.test_fraction):
            raise BadInputError(
                "--group-near-duplicates: the split is given and stays as it is; only one that is drawn, by "
                "--validation-fraction or --test-fraction and without --splits, can keep near-duplicates together"
            )
        if not self.leakage_check:
            raise BadInputError("--group-near-duplicates needs the check that --no-leakage-check leaves out; drop one")

    def builder_arguments(self, data_dir: Path, work: Path) -> dict[str, Any]:
        """Keyword arguments for a builder that writes below `work` only."""
        return {
            "data_dir": str(data_dir),
            "cache_dir": str(work / "cache"),
            "splits": None if self.splits is None else str(self.splits),
            "validation_fraction": self.validation_fraction,
            "test_fraction": self.test_fraction,
            "seed": self.seed,
            "image_size": self.image_size,
            "uncompressed": self.uncompressed,
            "allow_missing": self.allow_missing,
            "on_error": self.on_error,
            "problem_log": str(work / "skipped.jsonl"),
            "limits": self.limits,
        }


MakeBuilder = Callable[[dict[str, Any]], CaseBuilder]


def prepare(make_builder: MakeBuilder, preparation: Preparation) -> Report:
    """Writes the Arrow folder with manifest, report, contact sheet and metadata; returns the report.

    Args:
        make_builder: makes the builder from the arguments that all builders share.
        preparation: the options.

    Raises:
        BadInputError: bad input, or an output that exists and may not be overwritten. Nothing is left half-written.
    """
    preparation.check()
    result = finished_folder(preparation.output, preparation.overwrite, "prepared dataset", is_prepared)
    with result as folder, work_folder(folder) as work:
        data_dir = unpack(preparation.source, make_folder(work / "raw"))
        with named_after_source(data_dir, preparation.source):
            builder = make_builder(preparation.builder_arguments(data_dir, work))
            dataset = build(builder, preparation.num_proc)
        leakage = None
        if preparation.leakage_check:
            dataset, leakage = check_leakage(builder, dataset, preparation)
        skipped = [
            {**record, "problem": record["problem"].replace(str(data_dir), str(preparation.source))}
            for record in read_skipped(work / "skipped.jsonl")
        ]
        with without_bars():
            report = make_report(dataset, skipped, preparation.num_proc, None if leakage is None else leakage.counts)
            report["labels_exclusive"] = builder.LABELS_MAY_EXCLUDE and labels_exclude(dataset)
            dataset.save_to_disk(str(folder), max_shard_size=SHARD_SIZE)
        metadata = describe(builder, preparation, report)
        if leakage is not None and leakage.pairs:
            write_matches(leakage.pairs, folder / "leakage.csv")
        write_extras(folder, dataset, builder, metadata, report)
        if preparation.parquet or preparation.push_to_hub:
            with without_bars():
                write_parquet(dataset, folder / "parquet")
            write_hub_files(folder, preparation.card, metadata, without_paths(report, preparation, builder))
    if preparation.push_to_hub:
        push(
            preparation.output / "parquet",
            preparation.push_to_hub,
            private=not preparation.public,
            gated=preparation.gated,
        )
    return report


def without_paths(report: Report, preparation: Preparation, builder: CaseBuilder) -> Report:
    """The report for a card: of the files that its lines name, not where they lie on this machine."""
    tables = (getattr(builder.config, name, None) for name in (*TABLES_BESIDE, "table"))
    text = json.dumps(report)
    for path in filter(None, (preparation.source, *tables)):
        text = text.replace(json.dumps(str(path))[1:-1], json.dumps(Path(path).resolve().name)[1:-1])
    return json.loads(text)


@contextmanager
def without_bars() -> Iterator[None]:
    """Silences the bars that `datasets` shows for each split of a short step; those of long ones stay."""
    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            enable_progress_bars()


@contextmanager
def named_after_source(data_dir: Path, source: Path) -> Iterator[None]:
    """Makes errors name what the user gave, not the folder it was unpacked to."""
    try:
        yield
    except BadInputError as error:
        raise BadInputError(str(error).replace(str(data_dir), str(source))) from error


def make_folder(path: Path) -> Path:
    """Makes a folder and returns it."""
    path.mkdir()
    return path


def build(builder: CaseBuilder, num_proc: int | None) -> DatasetDict:
    """Runs a builder into its own cache folder and returns all splits."""
    workers = num_proc if num_proc is not None and num_proc > 1 else None
    with named_worker_failure(str(builder.root), "try --num-proc 1"):
        builder.download_and_prepare(num_proc=workers)
    empty = [name for name, split in builder.info.splits.items() if split.num_examples == 0]
    if empty:
        raise BadInputError(
            f"{builder.root}: no readable case is left for the split {', '.join(empty)}; see the problems"
        )
    return builder.as_dataset()


@dataclass(frozen=True)
class Leakage:
    """What the check found: the counts of `leakage.summarise`, and the pairs of rows in different splits."""

    counts: dict[str, Any]
    pairs: list[Match]


def check_leakage(builder: CaseBuilder, dataset: DatasetDict, preparation: Preparation) -> tuple[DatasetDict, Leakage]:
    """Compares images across cases; where asked to, draws the splits anew with look-alikes kept together.

    The split `unlabelled` is left out: it takes part in neither training nor results.
    """
    compared = compare(labelled_splits(dataset), num_proc=preparation.num_proc)
    groups = linked_cases(compared) if preparation.group_near_duplicates else []
    if groups:
        with without_bars():
            dataset = redistribute(dataset, builder, builder.assign_splits(groups))
        compared = compared.relocated(labelled_splits(dataset))
    counts, pairs = summarise(compared)
    if preparation.group_near_duplicates:
        counts["groups"] = {"number": len(groups), "largest": max(map(len, groups), default=0)}
    return dataset, Leakage(counts, pairs)


def labelled_splits(dataset: DatasetDict) -> dict[str, Dataset]:
    """The splits that training or results see."""
    return {name: split for name, split in dataset.items() if name != "unlabelled"}


def redistribute(dataset: DatasetDict, builder: CaseBuilder, splits: Mapping[str, str]) -> DatasetDict:
    """Moves rows to the given splits (by case id), in the order of the builder's cases."""
    position = {case.case_id: number for number, case in reversed(list(enumerate(builder.cases)))}
    whole = concatenate_datasets(list(dataset.values()))
    rows = sorted(enumerate(whole["case_id"]), key=lambda pair: position[pair[1]])
    chosen = {name: [row for row, case_id in rows if splits[case_id] == name] for name in SPLIT_NAMES}
    return DatasetDict(
        {
            name: whole.select(indices).flatten_indices(writer_batch_size=builder.DEFAULT_WRITER_BATCH_SIZE)
            for name, indices in chosen.items()
            if indices
        }
    )


def describe(builder: CaseBuilder, preparation: Preparation, report: Report) -> dict[str, Any]:
    """Returns the contents of `resformer.json`."""
    beside = [Path(file) for name in TABLES_BESIDE if (file := getattr(builder.config, name, None)) is not None]
    return {
        "format": 1,
        "builder": type(builder).__name__,
        "builder_version": str(builder.VERSION),
        "config": builder.config.name,
        "source": builder.source_name,
        "modality": builder.modality,
        "mask_classes": builder.mask_classes,
        "class_labels": builder.class_labels,
        "labels_exclusive": report["labels_exclusive"],
        "split_rule": builder.split_rule,
        "seed": preparation.seed,
        "mask_resolution": "native" if preparation.image_size is None else list(preparation.image_size),
        "source_fingerprint": source_fingerprint([preparation.source, *beside]),
        "num_rows": {name: split["rows"] for name, split in report["splits"].items()},
        "class_counts": {name: split["class_counts"] for name, split in report["splits"].items()},
        "num_skipped": len(report["skipped"]),
        "near_duplicates": report["near_duplicates"],
    }


def write_extras(
    folder: Path, dataset: DatasetDict, builder: CaseBuilder, metadata: dict[str, Any], report: Report
) -> None:
    """Writes everything that lies beside the Arrow files."""
    manifest = {case_id: name for name, split in dataset.items() for case_id in split["case_id"]}
    write_manifest(manifest, folder / "splits.csv")
    (folder / METADATA_NAME).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(format_report(report, f"{metadata['builder']} prepared"), encoding="utf-8")
    contact_sheet(dataset, builder.mask_classes, builder.class_labels).save(folder / "contact_sheet.png")


def write_hub_files(folder: Path, card: Path | None, metadata: dict[str, Any], report: Report) -> None:
    """Writes what goes to the Hub beside the Parquet files: the card, the metadata and the manifest."""
    if card is not None:
        write_card(folder / "parquet", card, metadata, report)
    for name in (METADATA_NAME, "splits.csv"):
        shutil.copy2(folder / name, folder / "parquet" / name)


def parse_image_size(values: Sequence[int] | None) -> tuple[int, int] | None:
    """Returns (height, width) from one or two numbers of pixels."""
    if values is None:
        return None
    if len(values) not in (1, 2) or min(values) < 1:
        raise BadInputError(
            f"--image-size {' '.join(map(str, values))}: expected one side, or height and width, in pixels"
        )
    return values[0], values[-1]
