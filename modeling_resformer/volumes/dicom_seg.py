"""Masks as DICOM Segmentation objects (SEG) over the DICOM images that they were predicted from, for PACS and viewers.

The only file that imports highdicom, which copies patient, study and place from the images. One binary segment for each mask
class: binary, since few viewers know label maps yet. What a class means is said by a code; who predicts says which.

Of the images' headers only what says where pixels lie, and the UIDs without which no viewer could lay a mask over its image, is
taken over: the patient is called as the case is, and dates, numbers, people and places are left out, as the basic profile of
DICOM's PS3.15 asks for (with its option to retain UIDs). A PACS files such an object under another patient, or asks; where it
shall lie beside its images, `keep_identifiers` copies patient and study.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from ..configuration_resformer import __version__
from ..drawing import class_colour
from ..errors import BadInputError, one_line
from ..files import whole_file
from .dicom import read_dataset, without_values


PRODUCT = "ResFormer"
SERIES_NUMBER = 900  # beyond those that scanners give
LONGEST_TEXT, LONGEST_CODE = 64, 16  # characters, of DICOM's LO and SH
# Attributes that an image must have, if only empty, and many have not.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "Modality"),
)
# What a header keeps without its identifiers, beside what describes the pixels (group 0028) and the places of frames (5200).
KEPT = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "ImageType", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SliceThickness", "SpacingBetweenSlices"),
)
PIXELS, FRAMES = 0x0028, 0x5200
REMOVED = "patient and study removed (PS3.15 basic), UIDs retained"  # at most 64 characters
SNOMED = "SCT"
STRUCTURE = Code("49755003", SNOMED, "Morphologically Abnormal Structure")  # of CID 7150
# What stands where no code was given: a private scheme, as DICOM wants them named, which claims no meaning.
OWN_SCHEME = "99RESFORMER"
OWN_CATEGORY = Code("mask-class", OWN_SCHEME, "Mask class of a model")

EXPECTED = 'expected {"CLASS": {"value": "95324001", "meaning": "Skin lesion"}}'


@dataclass(frozen=True)
class SegmentCode:
    """What a mask class means: a property type (as of CID 7151) and the category it belongs to (CID 7150)."""

    type: Code
    category: Code = STRUCTURE


@dataclass(frozen=True)
class SegmentationWriter:
    """Writes the masks of one model.

    Args:
        mask_classes: names of the foreground classes, in the order of their indices from 1.
        codes: of those whose meaning is known, by name.
        model: fingerprint of the weights, which the object names as the device's serial number.
        keep_identifiers: whether patient and study stand in the object as in the images.
    """

    mask_classes: tuple[str, ...]
    codes: Mapping[str, SegmentCode]
    model: str
    keep_identifiers: bool = False

    def write(self, path: Path, mask: np.ndarray, files: Sequence[Path], slice_spacing: float | None = None) -> Path:
        """Writes one mask; whole or not at all.

        Args:
            path: file to write; without identifiers its name is the patient's.
            mask: (slices, rows, columns) uint8 class indices.
            files: the DICOM files that were segmented: one with as many frames, or one for each slice, in their order.
            slice_spacing: distance of neighbouring slices in mm, if known.

        Raises:
            BadInputError: the images lack what a segmentation must repeat of them, as their place in the patient.
            OSError: it cannot be written.
        """
        headers = [read_dataset(file) for file in files]
        if not self.keep_identifiers:
            headers = [without_identifiers(header, path.stem) for header in headers]
        headers = [completed(header, slice_spacing) for header in headers]
        for header in headers[1:]:
            if "ImageOrientationPatient" in header:  # equal but for rounding, or the volume would not have been read
                header.ImageOrientationPatient = headers[0].get("ImageOrientationPatient")
        try:
            segmentation = self.built(headers, mask)
        except Exception as error:  # highdicom raises what it meets in a header: key, type, attribute errors too
            raise BadInputError(
                f"{files[0]}: no DICOM segmentation can be laid over it ({without_values(error)}); predict it without "
                "--dicom-seg"
            ) from error
        with whole_file(path) as partial:
            segmentation.save_as(partial)
        return path

    def built(self, headers: Sequence[Dataset], mask: np.ndarray) -> Segmentation:
        return Segmentation(
            source_images=headers,
            pixel_array=mask,
            segmentation_type="BINARY",
            segment_descriptions=[self.described(number) for number in range(1, len(self.mask_classes) + 1)],
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            series_description=f"{PRODUCT} masks",
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=PRODUCT,
            manufacturer_model_name=PRODUCT,
            software_versions=__version__,
            device_serial_number=self.model[:LONGEST_TEXT],
            specific_character_set="ISO_IR 192",  # UTF-8, whatever the images have: names of classes may be any text
            omit_empty_frames=bool(mask.any()),  # one without any segment must have its frames
            content_label="MASKS",
            content_description="predicted, not reviewed",
        )

    def described(self, number: int) -> SegmentDescription:
        name = self.mask_classes[number - 1]
        own = SegmentCode(Code(f"class-{number}", OWN_SCHEME, name[:LONGEST_TEXT]), OWN_CATEGORY)
        code = self.codes.get(name, own)
        return SegmentDescription(
            segment_number=number,
            segment_label=name[:LONGEST_TEXT],
            segmented_property_category=code.category,
            segmented_property_type=code.type,
            algorithm_type="AUTOMATIC",
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name=PRODUCT, family=codes.cid7162.ArtificialIntelligence, version=__version__
            ),
            display_color=CIELabColor.from_rgb(*class_colour(number)),
        )


def without_identifiers(header: Dataset, name: str) -> Dataset:
    """A header of what a segmentation needs alone, whose patient is called `name`."""
    kept = Dataset()
    kept.file_meta = header.file_meta
    for element in header:
        if element.tag.group in (PIXELS, FRAMES) or element.keyword in KEPT:
            kept.add(element)
    kept.PatientID = name[:LONGEST_TEXT]
    kept.PatientIdentityRemoved, kept.DeidentificationMethod = "YES", REMOVED
    kept.LongitudinalTemporalInformationModified = "REMOVED"
    return kept


def completed(header: Dataset, slice_spacing: float | None) -> Dataset:
    """The header with what every image must have and many have not: empty, or as the volume's geometry says it."""
    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if slice_spacing is not None and "ImagePositionPatient" in header:
        for name in ("SliceThickness", "SpacingBetweenSlices"):
            if header.get(name) is None:
                setattr(header, name, slice_spacing)
    return header


def read_segment_codes(path: Path, mask_classes: Sequence[str]) -> dict[str, SegmentCode]:
    """Reads what mask classes mean: JSON of an object per class with `value`, `meaning`, `scheme` (SNOMED CT, `SCT`, where
    none is given) and `category`, an object like it.

    Raises:
        BadInputError: not that, or a class that the model does not have.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"--segment-codes {path}: cannot be read ({error.strerror}); {EXPECTED}") from error
    except ValueError as error:
        raise BadInputError(f"--segment-codes {path}: not JSON ({one_line(error, 160)}); {EXPECTED}") from error
    if not isinstance(given, dict):
        raise BadInputError(f"--segment-codes {path}: is no object; {EXPECTED}")
    unknown = [name for name in given if name not in mask_classes]
    if unknown:
        raise BadInputError(
            f"--segment-codes {path}: {', '.join(unknown)} is no mask class of the model; it has {', '.join(mask_classes)}"
        )
    found = {}
    for name, stated in given.items():
        where = f"--segment-codes {path}: {name}"
        code = read_code(stated, where, ("value", "meaning", "scheme", "category"))
        more = stated.get("category")
        category = STRUCTURE if more is None else read_code(more, f"{where}, category", ("value", "meaning", "scheme"))
        found[name] = SegmentCode(code, category)
    return found


def read_code(stated: Any, where: str, known: Sequence[str]) -> Code:
    if not isinstance(stated, dict) or not {"value", "meaning"} <= set(stated) <= set(known):
        raise BadInputError(f"{where} is {one_line(json.dumps(stated), 80)}; {EXPECTED}")
    value, scheme, meaning = (stated.get(name, SNOMED) for name in ("value", "scheme", "meaning"))
    for text, most in ((value, LONGEST_CODE), (scheme, LONGEST_CODE), (meaning, LONGEST_TEXT)):
        if not isinstance(text, str) or not 0 < len(text.strip()) <= most or "\\" in text:
            raise BadInputError(
                f"{where} has {json.dumps(text)}; expected text of 1 to {most} characters, no backslash"
            )
    if scheme == SNOMED and not re.fullmatch(r"\d{6,16}", value):
        raise BadInputError(f"{where} has the value {value!r}; expected a SNOMED CT identifier, 6 to 16 digits")
    return Code(value, scheme, meaning)
