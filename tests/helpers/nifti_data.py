"""NIfTI files, written without a library."""

import gzip
import struct


ORIGIN = (12.5, -30.25, 8.0)


def write_nifti(path, voxels, units=2, pixdim=(0.5, 0.25, 2.0), **changes):
    """A NIfTI-1 file byte by byte, as nifti1.h lays it out; `changes` override single fields."""
    codes = {"uint8": 2, "int16": 4, "float32": 16, "uint16": 512}
    fields = {
        "dim": (3, *voxels.shape[::-1], 1, 1, 1, 1),
        "datatype": codes[str(voxels.dtype)],
        "pixdim": (1.0, *pixdim, 0.0, 0.0, 0.0, 0.0),
        "magic": b"n+1\0",
        "srow": (),
    } | changes
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *fields["dim"])
    struct.pack_into("<hh", header, 70, fields["datatype"], voxels.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, *fields["pixdim"])
    struct.pack_into("<3f", header, 108, 352.0, 1.0, 0.0)
    header[123] = units
    struct.pack_into("<hh", header, 252, 1, 0)  # the place of the first voxel is given, the axes are the patient's
    struct.pack_into("<3f", header, 268, *ORIGIN)
    if fields["srow"]:
        struct.pack_into("<h", header, 254, 1)
        struct.pack_into("<12f", header, 280, *fields["srow"])
    header[344:348] = fields["magic"]
    content = bytes(header) + voxels.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
