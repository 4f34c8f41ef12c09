"""One's own images: `images/`, `masks/` and a table with image-level labels become rows."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from ..errors import BadInputError
from .annotated import AnnotationConfig, check_unannotated_code, read_annotated_slices
from .builder import TABLES_BESIDE, CaseBuilder, RawImage, Row, walk_files
from .columns import UNANNOTATED, dataset_features
from .label_tables import binary_label, by_spelling, read_table, shortened, spelling_key, whole_number
from .splits import SPLIT_NAMES


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
MASK_FOLDERS = (
    "mask",
    "masks",
    "segmentation",
    "segmentations",
    "groundtruth",
    "ground_truth",
    "labels",
    "annotations",
)
MASK_ENDINGS = ("_mask", "_segmentation")
MASK_NAME = re.compile(rf"(.+)(?:{'|'.join(MASK_ENDINGS)})(?:_\d+)?")
TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson")
NAME_SEPARATORS = (";", "|")
NO_CLASS = "none"
KNOWN_COLUMNS = ("file_name", "case_id", "split", "slice_index", "class_labels", "row_spacing", "column_spacing")


@dataclass(eq=False)
class MultiTaskFolderConfig(AnnotationConfig):
    """As `AnnotationConfig`, with what only the owner of the data knows.

    Args:
        mask_values: pixel value -> class name; the first name is the background. Several values may share a name.
        label_names: image-level classes in order; None takes the names found in the column `class_labels`.
        table: the table's file, where the folder holds several.
        merge_masks: unite several masks of one image; without it they are refused.
        modality: the kind of the images in one word, e.g. ultrasound; it decides how training augments them.
    """

    mask_values: Mapping[int, str] | None = None
    label_names: Sequence[str] | None = None
    table: str | None = None
    merge_masks: bool = False
    modality: str | None = None


class MultiTaskFolder(CaseBuilder):
    """One row per image below `images/`.

    - `masks/` holds grey or palette masks named as the images (`a/b.jpg` -> `a/b.png`, `a/b_mask.png` or
      `a/b_segmentation.png`, with `merge_masks` also several, `a/b_mask_1.png` ...). An image may lack a mask.
    - One `.csv` or `.jsonl` table with the column `file_name` (relative to `images/`, suffix optional) gives labels:
      either `class_labels` (names joined by `;`, `none` for no class, empty for unlabelled; a list or null in JSON), or,
      with `label_names`, one column per class with 0, 1 or nothing (unknown). An image may lack a row.
    - Optional columns: `case_id` (patient: its images stay in one split), `split`, `slice_index`, `row_spacing` and
      `column_spacing` (mm per pixel). Any other column is kept as text.

    Example:

    ```py
    >>> builder = MultiTaskFolder(data_dir="scans", mask_values={0: "background", 255: "lesion"}, test_fraction=0.2)
    >>> builder.download_and_prepare()
    ```

    Raises:
        BadInputError: an unlisted mask value, no mask at all though there are `mask_values`, a mask or table row without image, two masks or rows for one image, a
            file in `images/` that is no image, an unknown label, a missing column, an empty folder.
    """

    SOURCE = "folder"
    CONTRACT = (
        "images/ with images, masks/ with masks of the images' names and sizes, and one table (.csv or .jsonl) with a "
        "column file_name"
    )
    BUILDER_CONFIG_CLASS = MultiTaskFolderConfig

    @cached_property
    def root(self) -> Path:
        """The folder with `images/`; an archive often wraps it in folders of its own."""
        folder = Path(self.config.data_dir)
        while not (folder / "images").is_dir():
            inside = [path for path in folder.iterdir() if path.is_dir()]
            if len(inside) != 1:
                return Path(self.config.data_dir)
            folder = inside[0]
        return folder

    @property
    def mask_classes(self) -> list[str]:
        if self.config.mask_values is None:
            if (self.root / "masks").is_dir():
                raise BadInputError(
                    f"{self.root / 'masks'}: what do the values mean? Say it with --mask-values 0=background,255=lesion"
                )
            return ["background"]
        return list(dict.fromkeys(self.config.mask_values.values()))

    @property
    def modality(self) -> str | None:
        return self.config.modality

    @property
    def class_labels(self) -> list[str]:
        if self.config.label_names is not None:
            return list(self.config.label_names)
        found = {name for row in self._table for name in self._named_labels(row) or ()}
        return sorted(found)

    @property
    def metadata_features(self) -> dict[str, Any]:
        names = ["file_name", *self._extra_columns]
        return {name: datasets.Value("string") for name in names}

    @property
    def _mask_indices(self) -> dict[int, int]:
        indices = {value: self.mask_classes.index(name) for value, name in (self.config.mask_values or {}).items()}
        unannotated = self.config.unannotated_code
        return indices if unannotated is None else {**indices, unannotated: UNANNOTATED}

    @cached_property
    def _table_path(self) -> Path | None:
        if self.config.table is not None:
            return Path(self.config.table)
        given = [getattr(self.config, name) for name in TABLES_BESIDE]
        others = [Path(name).resolve() for name in given if name is not None]
        tables = [
            path
            for path in sorted(self.root.iterdir())
            if path.suffix.lower() in TABLE_SUFFIXES and path.resolve() not in others
        ]
        if len(tables) > 1:
            names = ", ".join(path.name for path in tables)
            raise BadInputError(f"{self.root}: holds several tables ({names}); say which one with --table")
        return tables[0] if tables else None

    @cached_property
    def _table(self) -> list[Row]:
        if self._table_path is None:
            return []
        rows = read_table(self._table_path, required=("file_name",))
        if self.config.label_names is not None and rows and "class_labels" not in rows[0]:
            missing = [name for name in self.config.label_names if name not in rows[0]]
            if missing:
                raise BadInputError(
                    f"{self._table_path}: column {', '.join(missing)} is missing; found {', '.join(rows[0])}"
                )
        return rows

    @cached_property
    def _extra_columns(self) -> list[str]:
        found = dict.fromkeys(name for row in self._table for name in row)
        extra = [name for name in found if name not in (*KNOWN_COLUMNS, *(self.config.label_names or ()))]
        taken = [name for name in extra if name in dataset_features(["background"], [])]
        if taken:
            raise BadInputError(f"{self._table_path}: column {taken[0]} has the name of a settled column; rename it")
        return extra

    def find_cases(self) -> list[RawImage]:
        check_unannotated_code(self.config.unannotated_code, dict(self.config.mask_values or {}))
        images = self._images()
        masks, rows = self._masks(images), self._rows_of(images)
        if images and not masks:
            self._check_no_masks()
        refused = self._refuse_several(masks)
        slices: Counter[str] = Counter()
        cases = []
        for key, (name, path) in images.items():
            if key in refused:
                continue
            try:
                case = self._case(name, path, masks.get(key, ()), rows.get(key, {}), slices)
            except BadInputError as error:
                self.problems.report(str(error), name)
                continue
            cases.append(case)
        return self._without_unannotated(cases)

    def _without_unannotated(self, cases: list[RawImage]) -> list[RawImage]:
        """Takes masks and labels from the slices that the list of annotated slices leaves out."""
        if self.config.annotated_slices is None:
            return cases
        slices = ((case.case_id, [case.slice_index]) for case in cases)
        listed = read_annotated_slices(Path(self.config.annotated_slices), slices, self.problems)
        return [
            case if case.slice_index in listed[case.case_id] else replace(case, masks=(), labels=None, unknown=())
            for case in cases
        ]

    def rows(self, case: RawImage) -> Iterator[Row]:
        yield self.image_row(case, self._mask_indices)

    def _case(self, name: str, path: Path, masks: tuple[Path, ...], row: Row, slices: Counter[str]) -> RawImage:
        labels, unknown = self._labels(row)
        split = row.get("split") or None
        if split is not None and split not in SPLIT_NAMES:
            raise BadInputError(
                f"{self._table_path}: split {shortened(repr(split))} of {name}, expected {', '.join(SPLIT_NAMES)}"
            )
        case_id = str(row.get("case_id") or name)
        slice_index = _whole_number(
            row.get("slice_index"), slices[case_id], f"{self._table_path}: slice_index of {name}"
        )
        slices[case_id] += 1
        extra = {column: None if row.get(column) is None else str(row[column]) for column in self._extra_columns}
        return RawImage(
            case_id=case_id,
            image=path,
            masks=masks,
            labels=labels,
            unknown=unknown,
            split=split,
            slice_index=slice_index,
            spacing=self._spacing(row, name),
            metadata={"file_name": str(path.relative_to(self.root)), **extra},
        )

    def _images(self) -> dict[str, tuple[str, Path]]:
        folder = self.root / "images"
        if not folder.is_dir():
            raise BadInputError(f"{self.root}: holds no folder images; put the images into {folder}")
        found = []
        for path in walk_files(folder, self.root, self.problems):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.append((str(path.relative_to(folder).with_suffix("")), path))
            else:
                self.problems.report(f"{path}: not an image ({', '.join(IMAGE_SUFFIXES)}); move it away", path.stem)
        return by_spelling(found, str(folder), self.problems)

    def _masks(self, images: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
        folder = self.root / "masks"
        masks: dict[str, list[Path]] = defaultdict(list)
        for path in walk_files(folder, self.root, self.problems) if folder.is_dir() else ():
            stem = spelling_key(str(path.relative_to(folder).with_suffix("")))
            match = MASK_NAME.fullmatch(stem)
            key = next((key for key in (stem, match and match[1]) if key in images), None)
            if path.suffix.lower() not in MASK_SUFFIXES:
                self.problems.report(f"{path}: not a mask ({', '.join(MASK_SUFFIXES)}); convert or move it", path.stem)
            elif key is None:
                self.problems.report(f"{path}: mask without an image of its name in images; add or remove", path.stem)
            else:
                masks[key].append(path)
        return {key: tuple(files) for key, files in masks.items()}

    def _check_no_masks(self) -> None:
        """Refuses images without a single mask where options speak of masks."""
        flags = {"--mask-values": self.config.mask_values, "--merge-masks": self.config.merge_masks}
        given = [flag for flag, value in flags.items() if value]
        if not given or self.config.allow_missing:
            return
        folders = {path.name: path for path in sorted(self.root.iterdir()) if path.is_dir() and path.name != "images"}
        near = [name for name in folders if name.casefold() in MASK_FOLDERS and name != "masks"]
        cure = f"rename {folders[near[0]]} to masks" if near else "put the masks there"
        raise BadInputError(
            f"{self.root / 'masks'}: no mask found there, though {' and '.join(given)} speak{'s' * (len(given) == 1)} "
            f"of masks; {cure}, or go on without any by --allow-missing"
        )

    def _refuse_several(self, masks: Mapping[str, tuple[Path, ...]]) -> set[str]:
        """Reports the images with several masks and returns their keys; of which mask to keep nothing is known."""
        several = {} if self.config.merge_masks else {key: files for key, files in masks.items() if len(files) > 1}
        for key, (first, second, *more) in several.items():
            others = "".join(f", {path.name}" for path in more)
            self.problems.report(
                f"{second}: a second mask of one image, beside {first.name}{others}; keep one, or unite them by "
                "--merge-masks",
                key,
            )
        return set(several)

    def _rows_of(self, images: Mapping[str, tuple[str, Path]]) -> dict[str, Row]:
        keys = {spelling_key(str(path.relative_to(self.root / "images"))): key for key, (_, path) in images.items()}
        found = defaultdict(list)
        for row in self._table:
            name = spelling_key(str(row["file_name"]).replace("\\", "/")).removeprefix("images/")
            key = keys.get(name, name if name in images else None)
            if key is None:
                self.problems.report(
                    f"{self._table_path}: {shortened(str(row['file_name']))} has no image in images",
                    str(row["file_name"]),
                )
            else:
                found[key].append(row)
        for key, rows in found.items():
            if len(rows) > 1:
                self.problems.report(f"{self._table_path}: {images[key][0]} comes twice; keep one row", images[key][0])
        return {key: rows[0] for key, rows in found.items()}

    def _labels(self, row: Row) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """Returns (present, unknown) classes; present is None for an unlabelled image."""
        if "class_labels" in row or self.config.label_names is None:
            named = self._named_labels(row)
            strange = sorted(set(named or ()) - set(self.class_labels))
            if strange:
                raise BadInputError(
                    f"{self._table_path}: label {shortened(repr(strange[0]))} of {shortened(str(row['file_name']))}, expected "
                    f"{shortened(', '.join(self.class_labels), 300)}"
                )
            return named, ()
        names = self.config.label_names
        unknown = tuple(name for name in names if row.get(name) in (None, ""))
        if len(unknown) == len(names):
            return None, ()
        present = tuple(
            name
            for name in names
            if name not in unknown
            and binary_label(row[name], self._table_path or self.root, f"{name} of {shortened(str(row['file_name']))}")
        )
        return present, unknown

    def _named_labels(self, row: Row) -> tuple[str, ...] | None:
        value = row.get("class_labels")
        if isinstance(value, list):
            return tuple(dict.fromkeys(str(name) for name in value))
        text = "" if value is None else str(value).strip()
        if text.startswith("["):
            try:
                return tuple(dict.fromkeys(str(name) for name in json.loads(text)))
            except (ValueError, RecursionError):
                raise BadInputError(
                    f"{self._table_path}: class_labels {shortened(repr(text))} of {shortened(str(row['file_name']))} is no "
                    "JSON list; join names by ;"
                ) from None
        if not text:
            return None
        for separator in NAME_SEPARATORS[1:]:
            text = text.replace(separator, NAME_SEPARATORS[0])
        names = [name.strip() for name in text.split(NAME_SEPARATORS[0])]
        return tuple(dict.fromkeys(name for name in names if name and name != NO_CLASS))

    def _spacing(self, row: Row, name: str) -> tuple[float, float] | None:
        values = [row.get(column) for column in ("row_spacing", "column_spacing")]
        if all(value in (None, "") for value in values):
            return None
        try:
            spacing = float(values[0]), float(values[1])
        except (OverflowError, TypeError, ValueError):
            spacing = 0.0, 0.0
        if not all(0 < mm < float("inf") for mm in spacing):
            raise BadInputError(
                f"{self._table_path}: spacing {shortened(str(values))} of {name}, expected two positive numbers of mm"
            )
        return spacing


def parse_mask_values(text: str) -> dict[int, str]:
    """Reads `0=background,255=lesion`; the first class is the background.

    Raises:
        BadInputError: another form, or a value that comes twice.
    """
    values: dict[int, str] = {}
    for pair in text.split(","):
        value, equals, name = (part.strip() for part in pair.partition("="))
        number = whole_number(value)
        if not equals or number is None or not name or number in values:
            raise BadInputError(f"--mask-values {text}: {pair!r} is wrong; write e.g. 0=background,255=lesion")
        values[number] = name
    return values


def parse_modality(text: str) -> str:
    """Reads a word such as ultrasound, in small letters.

    Raises:
        BadInputError: it is no word.
    """
    word = text.strip().lower()
    if not re.fullmatch(r"\w[\w-]*", word):
        raise BadInputError(f"--modality {text!r}: expected one word, e.g. ultrasound")
    return word


def _whole_number(value: Any, default: int, what: str) -> int:
    if value in (None, ""):
        return default
    number = whole_number(value)
    if number is None:
        raise BadInputError(f"{what} is {shortened(repr(value))}, expected 0, 1, 2, ...")
    return number
