"""RETOUCH: OCT volumes of three vendors, one row per B-scan.

Bogunovic et al., "RETOUCH: the retinal OCT fluid detection and segmentation benchmark and challenge", IEEE TMI 2019. The
data are gated: users bring their own copy. Formats are taken from the challenge's description, no code.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..errors import BadInputError
from ..limits import DEFAULT_LIMITS, InputLimits
from ..volumes.metaimage import Volume, VolumeHeader, read_header, read_volume
from .annotated import AnnotationConfig, check_unannotated_code, read_annotated_slices
from .builder import CaseBuilder, Row, mask_or_none, present_classes, scaled_spacing, walk_files
from .columns import UNANNOTATED
from .encoding import encode_image, encode_png, resize_mask, resize_stored
from .label_tables import by_spelling


VENDORS = ("Cirrus", "Spectralis", "Topcon")
FLUIDS = ("IRF", "SRF", "PED")
PHANTOM = "PHANTOM"  # how the ids of volumes begin that a computer drew, see examples/oct_phantom.py
PHANTOM_SOURCE = "retouch_phantom"
VENDOR_NAME = re.compile("|".join(VENDORS), re.IGNORECASE)
CHALLENGE_TEST = re.compile(r"^test|testset", re.IGNORECASE)

# Our split. The paper gives sizes (Table 1) and no ids, so the training volumes of each vendor were put in a drawn order,
# once, and the order is written out here. Its first 4 volumes with the vendor's full number of slices are the test split,
# the next ones validation, all others training. Topcon's two volumes of 64 slices thus always train.
FULL_SLICES = {"Cirrus": 128, "Spectralis": 49, "Topcon": 128}
TEST_VOLUMES = 4
PUBLISHED_ORDER = {
    "Cirrus": (18, 5, 9, 10, 8, 21, 23, 19, 16, 2, 7, 3, 13, 4, 12, 6, 20, 22, 17, 15, 1, 11, 24, 14),
    "Spectralis": (31, 43, 36, 45, 32, 30, 39, 29, 28, 44, 47, 42, 26, 38, 35, 48, 40, 46, 25, 27, 33, 41, 37, 34),
    "Topcon": (62, 49, 68, 66, 64, 52, 61, 63, 60, 55, 59, 50, 54, 65, 58, 51, 69, 57, 56, 70, 53, 67),
}


@dataclass(eq=False)
class RetouchConfig(AnnotationConfig):
    """As `AnnotationConfig`, for one vendor or `all`.

    Args:
        validation_volumes: volumes per vendor that the published split takes from training for validation; with 0 the
            training split has the size of the paper's Table 1.
    """

    validation_volumes: int = 2


@dataclass(frozen=True)
class RawVolume:
    """One volume: `reference` is None for the challenge's own test volumes, `annotated` None where all slices are."""

    case_id: str
    vendor: str
    oct: Path
    reference: Path | None
    num_rows: int
    split: str | None = None
    annotated: frozenset[int] | None = None

    @property
    def file(self) -> Path:
        """The file that messages name."""
        return self.oct


class Retouch(CaseBuilder):
    """One row per B-scan, with fluid masks (IRF, SRF, PED) and which fluids occur as multi-label diagnosis.

    Reads `.../TRAINnnn/{oct,reference}.{mhd,raw}` at any depth below `data_dir`; a folder on the way must name the
    vendor. Configurations: `cirrus`, `spectralis`, `topcon`, `all`. 16-bit volumes (Spectralis) stay 16-bit PNGs.
    Volumes are split whole: by the published list, by a manifest (`splits`), or, with `validation_fraction` or
    `test_fraction`, by a seeded draw stratified by vendor and fluids. Volumes without reference in a `TestSet` folder
    or named `TEST...` form the split `unlabelled`. Slices that nobody annotated have neither mask nor labels; in a slice
    annotated in part, fluids that are not seen are unknown.

    Example:

    ```py
    >>> builder = Retouch(config_name="spectralis", data_dir="RETOUCH")
    >>> builder.download_and_prepare(num_proc=2)
    >>> row = builder.as_dataset(split="train")[0]
    >>> row["image"].mode, row["spacing"]
    ('I;16', [0.0039, 0.0115])
    ```

    Raises:
        BadInputError: a volume that is truncated, has other dimensions than its reference, other samples than 8 or 16
            unsigned bits, codes outside 0..3, no reference (unless `allow_missing`), or an unknown vendor; or phantoms
            beside volumes of patients.
    """

    SOURCE = "retouch"
    STRATUM = "vendor and fluid"
    LABELS_MAY_EXCLUDE = False  # a slice may hold several fluids, whether or not one of a small set does
    CONTRACT = "folders ...VENDOR.../TRAINnnn/ with oct.mhd and reference.mhd, each with its .raw file"
    BUILDER_CONFIG_CLASS = RetouchConfig
    BUILDER_CONFIGS: ClassVar[list[RetouchConfig]] = [
        RetouchConfig(name=name, version=CaseBuilder.VERSION)
        for name in ("all", *(vendor.lower() for vendor in VENDORS))
    ]
    DEFAULT_CONFIG_NAME = "all"

    @cached_property
    def source_name(self) -> str:
        """`retouch`, or `retouch_phantom` for volumes that a computer drew.

        Raises:
            BadInputError: both are there.
        """
        drawn = {case.case_id.upper().startswith(PHANTOM): case.oct for case in self.cases}
        if len(drawn) == 2:
            raise BadInputError(
                f"{drawn[True]} is a phantom and {drawn[False]} is none; prepare them into two datasets"
            )
        return PHANTOM_SOURCE if True in drawn else self.SOURCE

    @property
    def mask_classes(self) -> list[str]:
        return ["background", *FLUIDS]

    @property
    def class_labels(self) -> list[str]:
        return list(FLUIDS)

    @property
    def metadata_features(self) -> dict[str, Any]:
        return {
            "vendor": datasets.Value("string"),
            "slice_spacing": datasets.Value("float64"),
            "file_name": datasets.Value("string"),
        }

    def find_cases(self) -> list[RawVolume]:
        files = [
            path for path in walk_files(self.root, self.root, self.problems) if path.suffix.lower() in (".mhd", ".mha")
        ]
        by_folder: dict[Path, dict[str, Path]] = {}
        for path in files:
            by_folder.setdefault(path.parent, {})[path.stem.lower()] = path
        found = [case for folder, parts in by_folder.items() if (case := self._case(folder, parts)) is not None]
        once = by_spelling(((case.case_id, case) for case in found), str(self.root), self.problems)
        cases = sorted((case for _, case in once.values()), key=lambda case: (case.vendor, case.case_id))
        check_unannotated_code(self.config.unannotated_code, dict(enumerate(self.mask_classes)))
        if self.config.annotated_slices is None:
            return cases
        slices = ((case.case_id, range(case.num_rows)) for case in cases)
        listed = read_annotated_slices(Path(self.config.annotated_slices), slices, self.problems)
        return [replace(case, annotated=frozenset(listed[case.case_id])) for case in cases]

    def _case(self, folder: Path, parts: dict[str, Path]) -> RawVolume | None:
        try:
            if "oct" not in parts:
                raise BadInputError(f"{folder}: holds {', '.join(sorted(parts))} but no oct.mhd; add it")
            vendor = self._vendor(folder)
            if self.config.name not in ("all", vendor.lower()):
                return None
            reference = parts.get("reference")
            is_challenge_test = reference is None and any(map(CHALLENGE_TEST.search, self._parts(folder)))
            if reference is None and not is_challenge_test and not self.config.allow_missing:
                raise BadInputError(
                    f"{folder}: training volume without reference.mhd; add it, or keep such volumes with --allow-missing"
                )
            slices = read_header(parts["oct"], limits=self.limits).shape[0]
        except BadInputError as error:
            self.problems.report(str(error), folder.name)
            return None
        split = "unlabelled" if is_challenge_test else None
        return RawVolume(folder.name, vendor, parts["oct"], reference, slices, split)

    def _parts(self, folder: Path) -> tuple[str, ...]:
        return self.root.name, *folder.relative_to(self.root).parts

    def _vendor(self, folder: Path) -> str:
        for part in reversed(self._parts(folder)):
            if match := VENDOR_NAME.search(part):
                return match[0].capitalize()
        raise BadInputError(f"{folder}: vendor unknown; a folder above must name {', '.join(VENDORS)}")

    def assign_splits(self, groups: Sequence[Sequence[str]] = ()) -> dict[str, str]:
        config = self.config
        if config.splits is not None or config.validation_fraction or config.test_fraction:
            return super().assign_splits(groups)
        splits = {case.case_id: case.split or "train" for case in self.cases}
        for vendor in VENDORS:
            short = {
                case.case_id.upper()
                for case in self.cases
                if case.vendor == vendor and case.num_rows < FULL_SLICES[vendor]
            }
            published = published_split(vendor, short, config.validation_volumes)
            for case in self.cases:
                if case.vendor == vendor and case.split is None:
                    splits[case.case_id] = published.get(case.case_id.upper(), "train")
        here = Counter(splits.values())
        self.split_rule = (
            f"this project's published list of volumes: {TEST_VOLUMES} test and {config.validation_volumes} validation "
            f"volumes a vendor, of which {here['test']} and {here['validation']} are in this source"
        )
        return splits

    def stratum(self, case: RawVolume) -> tuple[str, ...]:
        """Vendor and the fluids of the whole volume."""
        return case.vendor, *self._fluids.get(case.case_id, ())

    @cached_property
    def _fluids(self) -> dict[str, tuple[str, ...]]:
        fluids = {}
        for case in tqdm(self.cases, desc="Reading references", unit="volume"):
            if case.reference is not None:
                try:
                    masks = self._reference(case, read_header(case.oct, limits=self.limits))
                    codes = codes_in(mask for mask in masks if mask is not None) - {UNANNOTATED}
                except Exception:
                    continue  # the same error comes back, and is reported, when the rows are made
                fluids[case.case_id] = tuple(FLUIDS[int(code) - 1] for code in sorted(codes) if code)
        return fluids

    def rows(self, case: RawVolume) -> Iterator[Row]:
        volume = read_oct(case.oct, self.limits)
        masks = self._reference(case, volume.header)
        for index in range(case.num_rows):
            yield self._row(case, volume, index, masks[index])

    def _reference(self, case: RawVolume, oct_header: VolumeHeader) -> list[np.ndarray | None]:
        """Class indices and 255 of each slice, None for a slice that nobody annotated."""
        if case.reference is None:
            return [None] * case.num_rows
        reference = read_reference(case.reference, oct_header, self.config.unannotated_code, self.limits)
        is_annotated = [case.annotated is None or index in case.annotated for index in range(case.num_rows)]
        return [mask_or_none(mask) if known else None for mask, known in zip(reference, is_annotated, strict=True)]

    def _row(self, case: RawVolume, volume: Volume, index: int, mask: np.ndarray | None) -> Row:
        size = self.image_size
        image = Image.fromarray(np.ascontiguousarray(volume.voxels[index]))
        slice_spacing, *spacing = volume.header.spacing
        original_size = volume.header.shape[1:]
        in_part = mask is not None and bool((mask == UNANNOTATED).any())
        if size is not None:
            image = resize_stored(image, size)
            mask = None if mask is None else mask_or_none(resize_mask(mask, size))
        present = None if mask is None else present_classes(mask)
        # What was not seen in a part may be in the rest.
        unknown = [fluid for fluid in range(len(FLUIDS)) if in_part and mask is not None and fluid + 1 not in present]
        stem = f"{case.case_id}_{index:03d}"
        return {
            "image": {"bytes": encode_image(image, self.config.uncompressed), "path": f"{stem}.png"},
            "mask": None if mask is None else {"bytes": encode_png(mask), "path": f"{stem}_mask.png"},
            "class_labels": None if present is None else [code - 1 for code in present],
            "class_labels_unknown": unknown,
            "case_id": case.case_id,
            "slice_index": index,
            "source": self.source_name,
            "spacing": scaled_spacing(tuple(spacing), original_size, size),
            "original_size": list(original_size),
            "mask_classes": present,
            "vendor": case.vendor,
            "slice_spacing": slice_spacing,
            "file_name": str(case.oct.relative_to(self.root)),
        }


def published_split(vendor: str, short_volumes: set[str], validation_volumes: int = 2) -> dict[str, str]:
    """Returns the published split of one vendor's training volumes: id (`TRAINnnn`) -> split.

    Args:
        vendor: one of `VENDORS`.
        short_volumes: ids of the volumes with fewer slices than usual; they stay in training.
        validation_volumes: how many volumes to take from training for validation.
    """
    order = [f"TRAIN{number:03d}" for number in PUBLISHED_ORDER[vendor]]
    full = [case_id for case_id in order if case_id not in short_volumes]
    splits = dict.fromkeys(order, "train")
    splits |= dict.fromkeys(full[:TEST_VOLUMES], "test")
    splits |= dict.fromkeys(full[TEST_VOLUMES : TEST_VOLUMES + validation_volumes], "validation")
    return splits


def read_oct(path: Path, limits: InputLimits = DEFAULT_LIMITS) -> Volume:
    """Reads an OCT volume; its samples must be 8 or 16 unsigned bits."""
    volume = read_volume(path, limits=limits)
    if volume.voxels.dtype not in (np.uint8, np.uint16):
        raise BadInputError(f"{path}: {volume.header.element_type} samples, expected MET_UCHAR or MET_USHORT")
    return volume


def read_reference(
    path: Path,
    oct_header: VolumeHeader,
    unannotated_code: int | None = None,
    limits: InputLimits = DEFAULT_LIMITS,
) -> np.ndarray:
    """Reads a reference as class indices (slices, rows, columns) uint8: 0 none, 1 IRF, 2 SRF, 3 PED, 255 not annotated.

    Args:
        path: of the reference.
        oct_header: of its OCT volume.
        unannotated_code: the file's code for voxels that nobody annotated; None where it has none.
        limits: the largest volume.

    Raises:
        BadInputError: another size or direction than its OCT volume, or codes outside 0..3 and that one.
    """
    volume = read_volume(path, limits=limits)
    if volume.header.shape != oct_header.shape:
        sizes = (" x ".join(str(n) for n in header.shape[::-1]) for header in (volume.header, oct_header))
        raise BadInputError("{}: reference is {} voxels, its oct {}; export it again".format(path, *sizes))
    if not np.allclose(volume.header.direction, oct_header.direction, atol=1e-3):
        raise BadInputError(f"{path}: TransformMatrix differs from that of {oct_header.path.name}; export it again")
    wrong = sorted(codes_in(volume.voxels) - {0, 1, 2, 3, unannotated_code})
    if wrong:
        shown = ", ".join(str(code) for code in wrong[:5])
        raise BadInputError(
            f"{path}: label codes {shown}, expected 0 none, 1 IRF, 2 SRF, 3 PED; correct the reference, or say by "
            "--unannotated-code which code marks voxels that nobody annotated"
        )
    if unannotated_code is None:
        return volume.voxels.astype(np.uint8, copy=False)
    return np.where(volume.voxels == unannotated_code, UNANNOTATED, volume.voxels).astype(np.uint8)


def codes_in(voxels: Iterable[np.ndarray]) -> set[int | float]:
    """Returns the values that occur; slice by slice, since a sort of the whole volume would copy it."""
    return {code for image in voxels for code in np.unique(image).tolist()}
