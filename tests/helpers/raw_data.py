"""Writes raw data in the formats of the sources, byte by byte, without the code under test."""

import csv
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


ELEMENT_TYPES = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "float32": "MET_FLOAT", "int16": "MET_SHORT"}
# vendor: (first volume id, dtype, B-scans, height, width, spacing x y z in mm), as the challenge describes them
VENDORS = {
    "Cirrus": (1, "uint8", 128, 1024, 512, (0.0117, 0.00196, 0.047)),
    "Spectralis": (25, "uint16", 49, 496, 512, (0.0115, 0.0039, 0.12)),
    "Topcon": (49, "uint8", 128, 885, 512, (0.0117, 0.0026, 0.047)),
}


def write_metaimage(path, voxels, spacing=(0.0117, 0.00196, 0.047), compressed=False, big_endian=False, **fields):
    """Writes `path` (.mhd) and the .raw beside it; `voxels` is (z, y, x); `fields` override header lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = voxels.astype(voxels.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    name = path.stem + (".zraw" if compressed else ".raw")
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": big_endian,
        "CompressedData": compressed,
    }
    if compressed:
        data = zlib.compress(data)
        header["CompressedDataSize"] = len(data)
    header |= {
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(map(str, spacing)),
        "DimSize": " ".join(map(str, voxels.shape[::-1])),
        "AnatomicalOrientation": "RAI",
        "ElementType": ELEMENT_TYPES[str(voxels.dtype)],
        "ElementDataFile": name,
    }
    header |= fields
    header["ElementDataFile"] = header.pop("ElementDataFile")  # the format wants it last
    path.write_text("".join(f"{key} = {value}\n" for key, value in header.items()))
    (path.parent / name).write_bytes(data)


def random_volume(shape, dtype="uint8", seed=0):
    """Noise that uses the whole range of the dtype."""
    high = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, high, size=shape, dtype=dtype, endpoint=True)


def random_reference(shape, codes=(0, 1, 2, 3), seed=0):
    """A reference whose slices hold differing fluids; slice 0 holds none."""
    rng = np.random.default_rng(seed)
    reference = np.zeros(shape, dtype=np.uint8)
    for index in range(1, shape[0]):
        code = codes[index % len(codes)]
        y, x = rng.integers(0, shape[1] // 2), rng.integers(0, shape[2] // 2)
        reference[index, y : y + shape[1] // 4, x : x + shape[2] // 4] = code
    return reference


def write_retouch_volume(
    folder, shape=(6, 32, 24), dtype="uint8", spacing=(0.0117, 0.00196, 0.047), seed=0, **options
):
    """Writes one training volume with its reference and returns both arrays."""
    voxels, reference = random_volume(shape, dtype, seed), random_reference(shape, seed=seed)
    write_metaimage(folder / "oct.mhd", voxels, spacing, **options)
    write_metaimage(folder / "reference.mhd", reference, spacing, **options)
    return voxels, reference


def write_photograph(path, size=(40, 30), seed=0, **options):
    """Writes a smooth coloured image of (width, height) that JPEG keeps well."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path, **options)


def write_mask(path, size=(40, 30), values=(0, 255)):
    """Writes a mask of (width, height) with a rectangle of `values[1]` in its upper left part."""
    mask = np.full(size[::-1], values[0], dtype=np.uint8)
    mask[2 : size[1] // 2, 3 : size[0] // 2] = values[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return mask


def write_isic(
    root, part="Training", diagnoses=("10", "01", "00"), first=0, newline="\n", style="{}.0", ending="_segmentation"
):
    """Writes one official part; `diagnoses` gives melanoma and keratosis per image. Returns the ids."""
    ids = [f"ISIC_{first + i:07d}" for i in range(len(diagnoses))]
    for i, name in enumerate(ids):
        write_photograph(root / f"ISIC-2017_{part}_Data" / f"{name}.jpg", seed=first + i)
        write_photograph(root / f"ISIC-2017_{part}_Data" / f"{name}_superpixels.png", seed=i)
        write_mask(root / f"ISIC-2017_{part}_Part1_GroundTruth" / f"{name}{ending}.png")
    rows = [[name, *(style.format(flag) for flag in flags)] for name, flags in zip(ids, diagnoses, strict=True)]
    write_csv(
        root / f"ISIC-2017_{part}_Part3_GroundTruth.csv",
        [["image_id", "melanoma", "seborrheic_keratosis"], *rows],
        newline,
    )
    return ids


def write_csv(path: Path, rows, newline="\n"):
    """Writes rows as CSV with the given line ending."""
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator=newline).writerows(rows)
