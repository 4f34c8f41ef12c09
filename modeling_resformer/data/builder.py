"""What the three builders share: find the cases, split them, turn each into rows, stop at or skip the bad ones."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError

from ..configuration_resformer import problem_of_name
from ..errors import BadInputError, Problems, unforeseen
from ..files import leads_out
from ..limits import DEFAULT_LIMITS, InputLimits
from .columns import UNANNOTATED, dataset_features
from .encoding import encode_png, index_mask, merge_masks, read_mask, resize_mask, store_image
from .prepared import MODALITIES
from .splits import SPLIT_NAMES, apply_manifest, carve, read_manifest


Row = dict[str, Any]
TABLES_BESIDE = ("splits", "annotated_slices")  # options that name a file which belongs to the source


@dataclass(eq=False)
class PreparationConfig(datasets.BuilderConfig):
    """Options of every builder.

    Args:
        splits: split manifest (`case_id,split`) that overrides any other rule.
        validation_fraction, test_fraction: share of the training cases that moves into a new split.
        seed: of that draw.
        image_size: side, or (height, width), to store the images at; None stores them as they are.
        uncompressed: store images that are encoded anew, such as resized ones, without compression: they decode faster.
        allow_missing: keep cases without a mask or image-level labels, with null in their place.
        on_error: "raise" stops at the first bad case, "skip" leaves it out and records it.
        problem_log: JSON-lines file for the skipped cases.
        limits: the largest image and volume.
        fingerprint: filled in by the builder; makes `datasets` see changed source files.
    """

    splits: str | None = None
    validation_fraction: float = 0.0
    test_fraction: float = 0.0
    seed: int = 0
    image_size: int | Sequence[int] | None = None
    uncompressed: bool = False
    allow_missing: bool = False
    on_error: str = "raise"
    problem_log: str | None = None
    limits: InputLimits = DEFAULT_LIMITS
    fingerprint: str | None = None


@dataclass(frozen=True)
class RawImage:
    """One image with what belongs to it: its mask files, none or several; `labels` is None when it is unlabelled."""

    case_id: str
    image: Path
    masks: tuple[Path, ...]
    labels: tuple[str, ...] | None
    unknown: tuple[str, ...] = ()
    split: str | None = None
    slice_index: int = 0
    spacing: tuple[float, float] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    num_rows: ClassVar[int] = 1

    @property
    def file(self) -> Path:
        """The file that messages name."""
        return self.image

    @property
    def stratum(self) -> tuple[str, ...]:
        return ("(unlabelled)",) if self.labels is None else self.labels


class CaseBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders. A case is the unit of splitting: a volume, a patient or an image.

    Subclasses give `SOURCE`, `CONTRACT` (what the folder must hold, in a phrase), `mask_classes`, `class_labels`, `metadata_features`, `find_cases()` and `rows(case)`.
    `case.case_id`, `case.split` (None where the source names none) and `case.num_rows` are read here.

    Raises:
        BadInputError: see `errors.py`; also straight from `download_and_prepare`, with any `num_proc`.
    """

    BUILDER_CONFIG_CLASS = PreparationConfig
    VERSION = datasets.Version("1.0.0")
    DEFAULT_WRITER_BATCH_SIZE = 16  # rows held in memory: images are large
    SOURCE: ClassVar[str]
    CONTRACT: ClassVar[str]
    STRATUM: ClassVar[str] = "label"  # what a drawn split has its share of, in words
    LABELS_MAY_EXCLUDE: ClassVar[bool] = True  # whether rows of one class each mean that a row cannot have two
    split_rule = "as the source gives it"

    def __init__(self, *args: Any, data_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        root = Path(data_dir) if data_dir is not None else None
        with stating(self.CONTRACT):
            if root is None or not root.is_dir():
                raise BadInputError(f"{data_dir}: no such folder; data_dir must be the folder with the raw files")
            beside = [Path(kwargs[name]) for name in TABLES_BESIDE if kwargs.get(name)]
            kwargs["fingerprint"] = source_fingerprint([root, *beside])
            super().__init__(*args, data_dir=str(root), **kwargs)

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Writes the splits into the cache folder; a refused folder is told what was expected of it."""
        with stating(self.CONTRACT):
            super().download_and_prepare(*args, **kwargs)

    @property
    def root(self) -> Path:
        return Path(self.config.data_dir)

    @property
    def source_name(self) -> str:
        """What rows and `resformer.json` record as the source."""
        return self.SOURCE

    @cached_property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of the stored images, None as they are."""
        size = self.config.image_size
        if size is None:
            return None
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise BadInputError(f"image_size is {size}, expected a side or (height, width) in pixels")
        return height, width

    @property
    def limits(self) -> InputLimits:
        return self.config.limits

    @cached_property
    def problems(self) -> Problems:
        return Problems(self.config.on_error, self.config.problem_log)

    @cached_property
    def cases(self) -> list[Any]:
        """All cases of the source, in a stable order."""
        cases = self.find_cases()
        if not cases:
            raise BadInputError(f"{self.root}: holds no cases of {self.SOURCE}; check the folder")
        return cases

    @property
    def mask_classes(self) -> list[str]:
        raise NotImplementedError

    @property
    def class_labels(self) -> list[str]:
        raise NotImplementedError

    @property
    def metadata_features(self) -> dict[str, Any]:
        raise NotImplementedError

    def find_cases(self) -> list[Any]:
        raise NotImplementedError

    def rows(self, case: Any) -> Iterator[Row]:
        raise NotImplementedError

    @property
    def modality(self) -> str | None:
        """The kind of the images, e.g. dermoscopy; None where it is not known."""
        return MODALITIES.get(type(self).__name__)

    def stratum(self, case: Any) -> tuple[str, ...]:
        """Returns what a drawn split must hold its share of."""
        return case.stratum

    def assign_splits(self, groups: Sequence[Sequence[str]] = ()) -> dict[str, str]:
        """Returns case id -> split. A manifest overrides; else the source's own splits, parts carved off training.

        Args:
            groups: cases that a draw must keep together.
        """
        splits = self._source_splits()
        if self.config.splits is not None:
            path = Path(self.config.splits)
            self.split_rule = f"manifest {path.name}"
            return apply_manifest(splits, read_manifest(path), path, self.problems)
        fractions = {"test": self.config.test_fraction, "validation": self.config.validation_fraction}
        drawn = {name: share for name, share in fractions.items() if share}
        self.split_rule = self._split_rule(drawn, bool(groups))
        return carve(splits, self._strata(splits) if drawn else {}, fractions, self.config.seed, groups)

    def _split_rule(self, drawn: Mapping[str, float], grouped: bool) -> str:
        """The rule in words: what the source gave, if anything, and what was drawn (split -> share)."""
        is_given = any(case.split not in (None, "unlabelled") for case in self.cases)
        if not drawn:
            return type(self).split_rule if is_given else "none: the source gives none, and none was drawn"
        cases = "training cases" if is_given else "cases"
        first, *more = (f"to {name}" for name in drawn)
        shares = [f"{share:g}" for share in drawn.values()]
        parts = [f"{shares[0]} of the {cases} {first}", *map(" ".join, zip(shares[1:], more, strict=True))]
        together = " with near-duplicates kept together" if grouped else ""
        how = f"{', '.join(parts)}, by case{together}, stratified by {self.STRATUM}, seed {self.config.seed}"
        return f"{type(self).split_rule}; then {how}" if is_given else f"drawn: {how}"

    def _source_splits(self) -> dict[str, str]:
        splits: dict[str, str] = {}
        for case in self.cases:
            split = case.split or "train"
            if splits.setdefault(case.case_id, split) != split:
                raise BadInputError(
                    f"{self.root}: case {case.case_id} is in the splits {splits[case.case_id]} and {split}; keep one"
                )
        return splits

    def _strata(self, splits: dict[str, str]) -> dict[str, tuple[str, ...]]:
        found = defaultdict(set)
        for case in self.cases:
            if splits[case.case_id] == "train":
                found[case.case_id].update(self.stratum(case))
        return {case_id: tuple(sorted(stratum)) for case_id, stratum in found.items()}

    def _info(self) -> datasets.DatasetInfo:
        for name in (*self.mask_classes, *self.class_labels):
            if problem := problem_of_name(name):
                raise BadInputError(f"{self.root}: the name of a class {problem}")
        return datasets.DatasetInfo(
            features=dataset_features(self.mask_classes, self.class_labels, self.metadata_features)
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        by_split = defaultdict(list)
        splits = self.assign_splits()
        for case in self.cases:
            if case.case_id in splits:
                by_split[splits[case.case_id]].append(case)
        return [self._split_generator(name, by_split[name]) for name in SPLIT_NAMES if by_split[name]]

    def _split_generator(self, name: str, cases: list[Any]) -> datasets.SplitGenerator:
        generator = datasets.SplitGenerator(name=name, gen_kwargs={"cases": cases})
        generator.split_info.num_examples = sum(case.num_rows for case in cases)  # gives the progress bar its end
        return generator

    def _generate_examples(self, cases: list[Any]) -> Iterator[tuple[str, Row]]:
        for case in cases:
            try:
                for row in self.rows(case):
                    yield f"{row['case_id']}/{row['slice_index']}", row
            except BadInputError as error:
                self.problems.report(str(error), case.case_id)
            except Exception as error:  # the boundary of a case: decoders raise what they meet in a damaged file
                self.problems.report(unforeseen(case.file, error), case.case_id)

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        # `datasets` wraps every error, and a worker process loses the cause: raise ours as it is.
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, (BadInputError, OSError)):
                raise error.__cause__ from None
            raise

    def image_row(self, case: RawImage, mask_values: dict[int, int]) -> Row:
        """Returns the row of one image file and its mask files, resized when `image_size` says so."""
        size = self.image_size
        stored = store_image(case.image, size, self.limits, self.config.uncompressed)
        mask = None
        if case.masks:
            mask = merge_masks(
                {path: index_mask(read_mask(path, stored, self.limits), mask_values, path) for path in case.masks}
            )
            mask = mask_or_none(resize_mask(mask, size) if size is not None else mask)
        return {
            "image": {"bytes": stored.data, "path": case.image.name},
            "mask": None if mask is None else {"bytes": encode_png(mask), "path": f"{case.image.stem}_mask.png"},
            "class_labels": None if case.labels is None else list(case.labels),
            "class_labels_unknown": list(case.unknown),
            "case_id": case.case_id,
            "slice_index": case.slice_index,
            "source": self.SOURCE,
            "spacing": scaled_spacing(case.spacing, stored.original_size, size),
            "original_size": list(stored.original_size),
            "mask_classes": None if mask is None else present_classes(mask),
            **case.metadata,
        }


@contextmanager
def stating(contract: str) -> Iterator[None]:
    """Makes an error end with what the folder must hold and where that is written."""
    try:
        yield
    except BadInputError as error:
        raise BadInputError(f"{error}. Expected {contract}; see docs/data.md") from error


def mask_or_none(mask: np.ndarray) -> np.ndarray | None:
    """Returns a mask (H, W) of class indices and 255, or None where it is 255 throughout: nobody annotated it."""
    return None if (mask == UNANNOTATED).all() else mask


def walk_files(root: Path, within: Path | None = None, problems: Problems | None = None) -> Iterator[Path]:
    """Yields every file below `root` in a stable order, without hidden ones and macOS archive residue.

    Args:
        root: the folder.
        within: the folder that links must not lead out of; None where the files are not opened.
        problems: told of links that do.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if within is not None and leads_out(path, within):
                problems.report(f"{path}: is a link that leads out of {within}; put the file itself there", path.stem)
            else:
                yield path


def present_classes(mask: Any) -> list[int]:
    """Returns the foreground class indices that occur in a mask (H, W) of class indices and 255."""
    return [index for index in np.unique(mask).tolist() if index not in (0, UNANNOTATED)]


def scaled_spacing(
    spacing: tuple[float, float] | None, original_size: tuple[int, int], size: tuple[int, int] | None
) -> list[float] | None:
    """Returns (row, column) mm per pixel after resizing `original_size` to `size`, both (height, width)."""
    if spacing is None:
        return None
    if size is None:
        return list(spacing)
    return [mm * before / after for mm, before, after in zip(spacing, original_size, size, strict=True)]


def source_fingerprint(paths: Sequence[Path]) -> str:
    """Hashes the names, sizes and modification times of files and of everything but hidden files in folders."""
    digest = hashlib.sha256()
    for path in paths:
        files = walk_files(path) if path.is_dir() else [path]
        for file in files:
            if not file.exists():
                raise BadInputError(f"{file}: no such file")
            stat = file.stat()
            name = file.relative_to(path) if path.is_dir() else file.name
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
