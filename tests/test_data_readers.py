"""MetaImage volumes are read bit for bit, and every bad one is named. The files are written by hand in raw_data.py."""

import numpy as np
import pytest
from raw_data import random_volume, write_metaimage


pytest.importorskip("SimpleITK")

from modeling_resformer.data.problems import BadInputError
from modeling_resformer.data.readers import read_header, read_volume


SHAPE = (5, 7, 11)  # z, y, x: all different, so that a swapped axis shows


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "options", [{}, {"compressed": True}, {"big_endian": True}, {"compressed": True, "big_endian": True}]
)
def test_voxels_come_back_bit_for_bit(tmp_path, dtype, options):
    voxels = random_volume(SHAPE, dtype)
    write_metaimage(tmp_path / "oct.mhd", voxels, spacing=(0.1, 0.2, 0.3), **options)
    volume = read_volume(tmp_path / "oct.mhd")
    assert volume.voxels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.header.spacing == (0.3, 0.2, 0.1)  # slice, row, column


def test_a_marked_corner_stays_top_left_of_the_first_slice(tmp_path):
    data = bytearray(4 * 3 * 2)  # DimSize 4 3 2: x fastest
    data[0] = 10  # x 0, y 0, z 0
    data[3] = 20  # x 3: right end of the first row
    data[4 * 2] = 30  # y 2: left end of the last row
    data[4 * 3] = 40  # z 1: first voxel of the second B-scan
    write_metaimage(tmp_path / "oct.mhd", np.frombuffer(bytes(data), np.uint8).reshape(2, 3, 4))
    voxels = read_volume(tmp_path / "oct.mhd").voxels
    assert voxels.shape == (2, 3, 4)
    assert (voxels[0, 0, 0], voxels[0, 0, -1], voxels[0, -1, 0], voxels[1, 0, 0]) == (10, 20, 30, 40)


@pytest.mark.parametrize("matrix", ["-1 0 0 0 -1 0 0 0 1", "1 0 0 0 0 1 0 -1 0"])
def test_a_direction_in_the_header_moves_nothing(tmp_path, matrix):
    voxels = random_volume(SHAPE)
    write_metaimage(tmp_path / "oct.mhd", voxels, TransformMatrix=matrix)
    np.testing.assert_array_equal(read_volume(tmp_path / "oct.mhd").voxels, voxels)


def test_local_data_in_one_file(tmp_path):
    voxels = random_volume(SHAPE)
    write_metaimage(tmp_path / "oct.mha", voxels, ElementDataFile="LOCAL")
    with open(tmp_path / "oct.mha", "ab") as file:
        file.write(voxels.tobytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "oct.mha").voxels, voxels)


def truncate(tmp_path):
    raw = tmp_path / "oct.raw"
    raw.write_bytes(raw.read_bytes()[:-1])


def lengthen(tmp_path):
    raw = tmp_path / "oct.raw"
    raw.write_bytes(raw.read_bytes() + b"0")


@pytest.mark.parametrize(
    ("fields", "damage", "message"),
    [
        ({}, truncate, "claims 385 bytes, oct.raw holds 384: it is truncated"),
        ({}, lengthen, "oct.raw holds 386: the dimensions do not match"),
        ({"HeaderSize": -1}, truncate, "it is truncated"),
        ({"DimSize": "11 7 4"}, None, "dimensions do not match"),
        ({"DimSize": "1000000 1000000 1000"}, None, "claims 1000000000000000 bytes, more than"),
        ({"DimSize": "11 7"}, None, "DimSize is '11 7', expected three numbers"),
        ({"DimSize": "11 -7 5"}, None, "expected three numbers"),
        ({"DimSize": "11 0 5"}, None, "not positive"),
        ({"NDims": 2}, None, "NDims is 2, expected 3"),
        ({"ElementSpacing": "0 1 1"}, None, "not positive"),
        ({"ElementSpacing": "nan 1 1"}, None, "expected three numbers"),
        ({"ElementType": "MET_LONG_LONG"}, None, "ElementType MET_LONG_LONG"),
        ({"ElementNumberOfChannels": 3}, None, "one plain number per voxel"),
        ({"TransformMatrix": "1 0 x"}, None, "TransformMatrix"),
        ({"ElementDataFile": "/etc/passwd"}, None, "points outside"),
        ({"ElementDataFile": "../oct.raw"}, None, "points outside"),
        ({"ElementDataFile": "..\\oct.raw"}, None, "points outside"),
        ({"ElementDataFile": "C:\\oct.raw"}, None, "points outside"),
        ({"ElementDataFile": "a/../../oct.raw"}, None, "points outside"),
        ({"ElementDataFile": "LIST"}, None, "list of files"),
        ({"ElementDataFile": "oct%03d.raw 1 5 1"}, None, "list of files"),
        ({"ElementDataFile": "other.raw"}, None, "'other.raw' is missing"),
    ],
)
def test_a_bad_header_is_named(tmp_path, fields, damage, message):
    write_metaimage(tmp_path / "oct.mhd", random_volume(SHAPE), **fields)
    if damage:
        damage(tmp_path)
    with pytest.raises(BadInputError) as error:
        read_header(tmp_path / "oct.mhd")
    assert message in str(error.value)
    assert str(tmp_path / "oct.mhd") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_header(tmp_path):
    (tmp_path / "oct.mhd").write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(BadInputError, match="no ElementDataFile line"):
        read_header(tmp_path / "oct.mhd")


def test_compressed_terabytes_are_refused_from_the_header(tmp_path):
    write_metaimage(tmp_path / "oct.mhd", random_volume(SHAPE), compressed=True, DimSize="1000 1000 4000")
    with pytest.raises(BadInputError, match=r"oct\.zraw cannot hold that"):
        read_volume(tmp_path / "oct.mhd")


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_truncated_compressed_data(tmp_path, keep):
    write_metaimage(tmp_path / "oct.mhd", random_volume((20, 30, 40)), compressed=True)
    packed = (tmp_path / "oct.zraw").read_bytes()
    (tmp_path / "oct.zraw").write_bytes(packed[: int(len(packed) * keep)])
    with pytest.raises(BadInputError, match=r"oct\.zraw: unpacks to \d+ bytes, the header claims 24000"):
        read_volume(tmp_path / "oct.mhd")


def test_damaged_compressed_data(tmp_path):
    write_metaimage(tmp_path / "oct.mhd", random_volume((20, 30, 40)), compressed=True)
    packed = bytearray((tmp_path / "oct.zraw").read_bytes())
    packed[0] ^= 255
    (tmp_path / "oct.zraw").write_bytes(packed)
    with pytest.raises(BadInputError, match=r"oct\.zraw: compressed data is damaged"):
        read_volume(tmp_path / "oct.mhd")


def test_nan_is_named(tmp_path):
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[2, 3, 4] = np.nan
    write_metaimage(tmp_path / "oct.mhd", voxels)
    with pytest.raises(BadInputError, match=r"oct\.mhd: holds NaN"):
        read_volume(tmp_path / "oct.mhd")
