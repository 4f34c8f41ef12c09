"""A prepared dataset on disk: the Arrow folder and the `resformer.json` beside it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowException

from ..errors import BadInputError, Problems, one_line
from .columns import class_names
from .splits import SPLIT_NAMES, apply_manifest, read_manifest


# What `datasets` and Arrow raise on files that are damaged.
READ_ERRORS = (AttributeError, LookupError, OSError, TypeError, ValueError, ArrowException, DatasetGenerationError)
METADATA_NAME = "resformer.json"
MODALITIES = {"Isic2017": "dermoscopy", "Retouch": "oct"}  # of the builders whose data are of one kind
REQUIRED_COLUMNS = ("image", "mask", "class_labels", "class_labels_unknown", "case_id", "slice_index", "mask_classes")


@dataclass(frozen=True)
class PreparedDataset:
    """What a trainer needs to know of a dataset.

    Attributes:
        dataset: the splits.
        mask_classes: names by class index, background first.
        class_labels: names of the image-level classes, in order.
        metadata: `resformer.json`: builder, split rule and seed, mask resolution, source fingerprint, class counts,
            modality, whether labels exclude each other, near-duplicates.
    """

    dataset: DatasetDict
    mask_classes: list[str]
    class_labels: list[str]
    metadata: dict[str, Any]

    @property
    def modality(self) -> str | None:
        """The kind of the images, e.g. dermoscopy; None where nobody said. Older folders tell it by their builder."""
        if "modality" in self.metadata:
            return self.metadata["modality"]
        return MODALITIES.get(self.metadata.get("builder", ""))

    def with_splits(self, splits: Mapping[str, str], rule: str) -> "PreparedDataset":
        """The same rows in other splits, in the order they have; nobody looked for near-duplicates across these.

        Args:
            splits: case id -> split, of every case.
            rule: how they came about, in words.
        """
        whole = concatenate_datasets(list(self.dataset.values()))
        split_of = [splits[case_id] for case_id in whole["case_id"]]
        chosen = {name: [i for i, split in enumerate(split_of) if split == name] for name in SPLIT_NAMES}
        dataset = DatasetDict({name: whole.select(rows) for name, rows in chosen.items() if rows})
        return replace(self, dataset=dataset, metadata={**self.metadata, "split_rule": rule, "near_duplicates": None})

    @property
    def classification_type(self) -> str:
        """As a `ResFormerConfig` has it: `exclusive` where the preparation found exactly one class in every labelled row.

        Folders of earlier versions, which did not look, are `multi_label`.
        """
        return "exclusive" if self.metadata.get("labels_exclusive") else "multi_label"

    def explain_classification_type(self, given: str | None) -> str:
        """One line for the log: whether classes exclude each other, and why; `given` is what flags or a recipe say."""
        if given is not None:
            return f"Image-level classes: {given}, as given."
        reason = {
            None: "since this dataset was prepared by an earlier version, which did not look whether they exclude each "
            "other; prepare it again",
            False: "since images of the dataset may have several of them or none",
            True: "since every labelled row of the dataset has exactly one of them",
        }[self.metadata.get("labels_exclusive")]
        other = "exclusive" if self.classification_type == "multi_label" else "multi_label"
        return (
            f"Image-level classes: {self.classification_type}, {reason}; "
            f"otherwise --config '{json.dumps({'classification_type': other})}'."
        )


def is_prepared(folder: Path) -> bool:
    """Whether a folder was written by a `scripts/prepare_*.py`."""
    return (folder / METADATA_NAME).is_file()


def load_prepared(path: str | Path, manifest: str | Path | None = None) -> PreparedDataset:
    """Loads the output folder of a `scripts/prepare_*.py`, or a folder with its Parquet files.

    Args:
        path: the folder.
        manifest: case and split of every case, in place of the splits that the folder holds.

    Raises:
        BadInputError: the folder does not exist or is no prepared dataset, or the manifest names other cases.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadInputError(
            f"{path}: no such folder; write one with scripts/prepare_isic2017.py, _retouch or _folder; see docs/data.md"
        )
    dataset = _load_splits(path)
    features = next(iter(dataset.values())).features
    missing = [column for column in REQUIRED_COLUMNS if column not in features]
    if missing:
        raise BadInputError(
            f"{path}: not a prepared dataset, column {', '.join(missing)} is missing; prepare it with scripts/prepare_*.py, "
            "see docs/data.md"
        )
    names = class_names(features, "mask_classes"), class_names(features, "class_labels")
    prepared = PreparedDataset(dataset, *names, metadata=_read_metadata(path))
    return prepared if manifest is None else _with_manifest(prepared, Path(manifest))


def _with_manifest(prepared: PreparedDataset, manifest: Path) -> PreparedDataset:
    cases = {case_id for rows in prepared.dataset.values() for case_id in rows["case_id"]}
    splits = apply_manifest(cases, read_manifest(manifest), manifest, Problems())
    return prepared.with_splits(splits, f"manifest {manifest.name}")


def _load_splits(path: Path) -> DatasetDict:
    if (path / "dataset_dict.json").is_file():
        dataset = _loaded(path, lambda: load_from_disk(str(path)))
    else:
        files = parquet_files(path)
        if not files:
            raise BadInputError(
                f"{path}: holds neither dataset_dict.json nor data/*.parquet; give the folder that "
                "scripts/prepare_*.py wrote with --output; see docs/data.md"
            )
        dataset = _loaded(path, lambda: DatasetDict({split: _load_parquet(names) for split, names in files.items()}))
    if not dataset:
        raise BadInputError(f"{path}: holds no splits; prepare it again")
    return dataset


def _loaded(path: Path, load: Callable[[], Any]) -> DatasetDict:
    """What `load` gives; whatever it raises on files that are damaged is said in one line."""
    try:
        dataset = load()
    except READ_ERRORS as error:
        raise BadInputError(f"{path}: cannot be read ({one_line(error, 200)}); prepare it again") from error
    if not isinstance(dataset, DatasetDict):
        raise BadInputError(f"{path}: holds no splits; prepare it again")
    return dataset


def _load_parquet(names: list[str]) -> Dataset:
    return load_dataset("parquet", data_files=names, split="train")


def parquet_files(path: Path) -> dict[str, list[str]]:
    """Returns split -> files of `data/SPLIT-nnnnn-of-nnnnn.parquet` below `path`."""
    files: dict[str, list[str]] = {}
    for file in sorted(path.glob("data/*.parquet")):
        files.setdefault(file.name.split("-")[0], []).append(str(file))
    return files


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA_NAME
    if not file.is_file():
        return {}
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise BadInputError(f"{file}: not JSON ({one_line(error, 160)}); prepare the dataset again") from error
    if not isinstance(metadata, dict):
        raise BadInputError(f"{file}: holds no JSON object; prepare the dataset again")
    return metadata
