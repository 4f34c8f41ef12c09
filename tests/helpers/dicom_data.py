"""Writes DICOM files as scanners do, by pydicom, without the code under test."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


OCT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"  # Ophthalmic Tomography Image Storage
CT = "1.2.840.10008.5.1.4.1.1.2"
PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.4"  # VL Photographic Image Storage


def dataset_of(pixels, sop_class, **fields):
    """A dataset of (H, W), (F, H, W) or (H, W, 3) pixels; `fields` override and None removes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.Modality, dataset.PatientID = "OT", "nobody"
    colour = pixels.shape[-1] == 3
    rows, columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    bits = pixels.dtype.itemsize * 8
    settings = {
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
    }
    if colour:
        settings["PlanarConfiguration"] = 0
    if pixels.ndim == 3 and not colour:
        settings["NumberOfFrames"] = len(pixels)
    for name, value in (settings | fields).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    return dataset


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder,
    voxels,
    spacing=(2.5, 0.5, 0.75),
    origin=(10.0, -20.0, 30.0),
    orientation=(1, 0, 0, 0, 1, 0),
    order=None,
    **fields,
):
    """Writes one file per slice of (z, y, x) voxels, named in another order than they lie in. Returns the paths by slice."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    paths = []
    for index, pixels in enumerate(voxels):
        place = {
            "PixelSpacing": list(spacing[1:]),
            "ImageOrientationPatient": list(map(float, orientation)),
            "ImagePositionPatient": [round(float(v), 10) for v in np.array(origin) + index * spacing[0] * normal],
            "InstanceNumber": index + 1,
            "SeriesNumber": 7,
        }
        dataset = dataset_of(pixels, CT, **(place | fields))
        paths.append(save(dataset, folder / f"{(index * 7) % 97:03d}.dcm"))
    return paths


def write_oct(path, voxels, spacing=(0.12, 0.0039, 0.0115), origin=(1.0, 2.0, 3.0), positions=True, **fields):
    """Writes an Ophthalmic Tomography file: shared pixel measures, a position for each frame. A B-scan lies across (x, z)
    of the patient, further B-scans below it (y)."""
    dataset = dataset_of(voxels, OCT, **fields)
    shared = Dataset()
    if spacing is not None:
        measures = Dataset()
        measures.PixelSpacing, measures.SliceThickness = list(spacing[1:]), 0.05
        shared.PixelMeasuresSequence = Sequence([measures])
    if positions:
        orientation = Dataset()
        orientation.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]
        shared.PlaneOrientationSequence = Sequence([orientation])
        dataset.PerFrameFunctionalGroupsSequence = Sequence(
            [_frame([origin[0], origin[1] + index * spacing[0], origin[2]]) for index in range(len(voxels))]
        )
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    return save(dataset, path)


def _frame(position):
    place, frame = Dataset(), Dataset()
    place.ImagePositionPatient = [round(float(value), 10) for value in position]
    frame.PlanePositionSequence = Sequence([place])
    return frame
