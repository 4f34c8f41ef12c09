"""ISIC 2017: dermoscopic photographs with a lesion mask and a diagnosis.

Codella et al., "Skin lesion analysis toward melanoma detection: a challenge at the 2017 ISBI", arXiv 1710.05006. The
images are CC0 1.0. The official folders of parts 1 and 3 are read as they are unpacked; only formats are taken from there.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from .builder import CaseBuilder, RawImage, Row, walk_files
from .label_tables import binary_label, by_spelling, read_table


PARTS = {"Training": "train", "Validation": "validation", "Test_v2": "test"}
MASK_VALUES = {0: 0, 255: 1}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_NAME = re.compile(r"(.+)_segmentation\.png", re.IGNORECASE)

Indexed = dict[str, tuple[str, Any]]  # spelling key -> (id as spelled, value)


class Isic2017(CaseBuilder):
    """One row per photograph.

    Reads `ISIC-2017_{Training,Validation,Test_v2}_Data/ISIC_nnnnnnn.jpg`, `..._Part1_GroundTruth/*_segmentation.png`,
    `..._Part3_GroundTruth.csv` and, where there, `..._Data_metadata.csv`, at any depth below `data_dir`. The parts
    present become train, validation and test. A lesion that is neither melanoma nor seborrheic keratosis is a nevus.

    Example:

    ```py
    >>> builder = Isic2017(data_dir="isic2017", validation_fraction=0.1, image_size=(224, 224))
    >>> builder.download_and_prepare()
    >>> train = builder.as_dataset(split="train")
    ```

    Raises:
        BadInputError: an image without mask or diagnosis (unless `allow_missing`), a mask or diagnosis without image,
            an id that comes twice, an unreadable file, a mask of another size or with values besides 0 and 255.
    """

    SOURCE = "isic2017"
    CONTRACT = (
        "ISIC-2017_Training_Data/, ISIC-2017_Training_Part1_GroundTruth/ and ISIC-2017_Training_Part3_GroundTruth.csv as "
        "downloaded (likewise Validation and Test_v2)"
    )
    split_rule = "official folders (Training: train, Validation: validation, Test_v2: test)"

    @property
    def mask_classes(self) -> list[str]:
        return ["background", "lesion"]

    @property
    def class_labels(self) -> list[str]:
        return ["melanoma", "seborrheic_keratosis", "nevus"]

    @property
    def metadata_features(self) -> dict[str, Any]:
        return {
            "age": datasets.Value("int32"),
            "sex": datasets.Value("string"),
            "file_name": datasets.Value("string"),
        }

    def find_cases(self) -> list[RawImage]:
        files = list(walk_files(self.root, self.root, self.problems))
        cases = []
        for part, split in PARTS.items():
            cases += self._cases_of_part(part, split, files)
        once = by_spelling(((case.case_id, case) for case in cases), str(self.root), self.problems)
        return [case for _, case in once.values()]

    def rows(self, case: RawImage) -> Iterator[Row]:
        yield self.image_row(case, MASK_VALUES)

    def _cases_of_part(self, part: str, split: str, files: list[Path]) -> list[RawImage]:
        images = self._index_images(part, files)
        masks = self._index_masks(part, files)
        diagnoses = self._index_diagnoses(part, files)
        patients = self._index_patients(part, files)
        for index, what in ((masks, "mask"), (diagnoses, "diagnosis")):
            for key in sorted(index.keys() - images.keys()):
                identifier = index[key][0]
                self.problems.report(
                    f"{self.root}: {what} of {identifier} has no image in ISIC-2017_{part}_Data; "
                    f"add the image or remove its {what}",
                    identifier,
                )
        cases = []
        for key, (case_id, path) in sorted(images.items()):
            mask = masks.get(key, (None, None))[1]
            labels = diagnoses.get(key, (None, None))[1]
            if self._is_complete(path, case_id, mask, labels):
                age, sex = patients.get(key, (None, (None, None)))[1]
                metadata = {"age": age, "sex": sex, "file_name": str(path.relative_to(self.root))}
                drawn = () if mask is None else (mask,)
                cases.append(RawImage(case_id, path, drawn, labels, split=split, metadata=metadata))
        return cases

    def _is_complete(self, path: Path, case_id: str, mask: Path | None, labels: tuple[str, ...] | None) -> bool:
        missing = [what for what, value in (("mask", mask), ("diagnosis", labels)) if value is None]
        if missing and not self.config.allow_missing:
            self.problems.report(
                f"{path}: image without {' and '.join(missing)}; add it, or keep such images with --allow-missing",
                case_id,
            )
            return False
        return True

    def _index_images(self, part: str, files: list[Path]) -> Indexed:
        folder = f"ISIC-2017_{part}_Data"
        found = (
            (path.stem, path)
            for path in files
            if path.parent.name == folder
            and path.suffix.lower() in IMAGE_SUFFIXES
            and not path.stem.lower().endswith("_superpixels")
        )
        return by_spelling(found, f"{self.root}: {folder}", self.problems)

    def _index_masks(self, part: str, files: list[Path]) -> Indexed:
        folder = f"ISIC-2017_{part}_Part1_GroundTruth"
        found = (
            (match[1], path)
            for path in files
            if path.parent.name == folder and (match := MASK_NAME.fullmatch(path.name))
        )
        return by_spelling(found, f"{self.root}: {folder}", self.problems)

    def _index_diagnoses(self, part: str, files: list[Path]) -> Indexed:
        found = []
        for path in tables_named(f"ISIC-2017_{part}_Part3_GroundTruth.csv", files):
            for row in read_table(path, required=("image_id", "melanoma", "seborrheic_keratosis")):
                name = row["image_id"]
                melanoma, keratosis = (
                    binary_label(row[column], path, f"{column} of {name}")
                    for column in ("melanoma", "seborrheic_keratosis")
                )
                if melanoma and keratosis:
                    self.problems.report(f"{path}: {name} is both melanoma and keratosis, expected at most one", name)
                    continue
                found.append((name, ("melanoma" if melanoma else "seborrheic_keratosis" if keratosis else "nevus",)))
        return by_spelling(found, f"{self.root}: ISIC-2017_{part}_Part3_GroundTruth.csv", self.problems)

    def _index_patients(self, part: str, files: list[Path]) -> Indexed:
        found = []
        for path in tables_named(f"ISIC-2017_{part}_Data_metadata.csv", files):
            for row in read_table(path, required=("image_id", "age_approximate", "sex")):
                age = row["age_approximate"]
                sex = row["sex"] if row["sex"] in ("male", "female") else None
                found.append(
                    (row["image_id"], (int(float(age)) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", age) else None, sex))
                )
        return by_spelling(found, f"{self.root}: ISIC-2017_{part}_Data_metadata.csv", self.problems)


def tables_named(name: str, files: list[Path]) -> list[Path]:
    """Returns the files of that name, in any case of letters."""
    return [path for path in files if path.name.lower() == name.lower()]
