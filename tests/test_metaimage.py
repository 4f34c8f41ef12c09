"""MetaImage volumes are read bit for bit, and every bad one is named. The files are written by hand in raw_data.py."""

import numpy as np
import pytest
from raw_data import random_volume, write_metaimage


SimpleITK = pytest.importorskip("SimpleITK")

from modeling_resformer.errors import BadInputError
from modeling_resformer.volumes.metaimage import read_header, read_volume


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


def drop_line(path, name):
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(name)))


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
        ({"DimSize": "1000000 1000000 1000"}, None, "has 1000000 x 1000000 pixels, more than"),
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
        ({"ElementDataFile": "sub/oct.raw"}, None, "points outside the header's own folder"),
        ({"ElementDataFile": "./oct.raw/../oct.raw"}, None, "points outside"),
        ({"ElementDataFile": "= oct.raw"}, None, "ElementDataFile has two separators"),
        ({"ElementDataFile": "x" * 5000}, None, "is missing"),
        ({"ElementDataFile": "LIST"}, None, "list of files"),
        ({"ElementDataFile": "oct%03d.raw 1 5 1"}, None, "list of files"),
        ({"ElementDataFile": "other.raw"}, None, "'other.raw' is missing"),
        ({"DimSize": "9" * 400 + " 7 5"}, None, "expected three numbers"),
        ({"DimSize": "9" * 5000 + " 7 5"}, None, "expected three numbers"),
        ({"DimSize": "11 7\n5"}, None, "no ElementDataFile line"),  # MetaIO reads on in the next line
        ({"ElementSpacing": "1e400 1 1"}, None, "beyond any number"),
        ({"TransformMatrix": "1e200 0 0 0 1e200 0 0 0 1"}, None, "is no direction"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, None, "is no direction"),
        ({"CompressedData": "yes"}, None, "CompressedData is 'yes', expected True or False"),
        ({"BinaryData": "False"}, None, "BinaryData is False, expected True"),
        ({"BinaryDataByteOrderMSB": "big"}, None, "expected True or False"),
        (
            {"ElementByteOrderMSB": "True"},
            None,
            "BinaryDataByteOrderMSB and ElementByteOrderMSB mean the same and differ",
        ),
        ({"Position": "1 2 3"}, None, "Offset and Position mean the same and differ"),
        ({"Rotation": "1 0 0 0 0 1 0 1 0"}, None, "TransformMatrix and Rotation mean the same and differ"),
        ({"ElementToIntensityFunctionSlope": 2}, None, "ElementToIntensityFunctionSlope is 2, expected 1"),
        ({"ElementToIntensityFunctionOffset": -5}, None, "ElementToIntensityFunctionOffset is -5, expected 0"),
        ({"ObjectType": "Tube"}, None, "ObjectType is Tube, expected Image"),
        ({"DistanceUnits": "um"}, None, "DistanceUnits is um, expected mm"),
        ({"HeaderSize": -3}, None, "HeaderSize is -3"),
        ({"HeaderSize": "9" * 400}, None, "HeaderSize is '999"),
        ({"HeaderSize": 4}, None, "holds 381: it is truncated"),
        ({"elementdatafile": "other.raw"}, None, "ElementDataFile comes twice"),
        ({"dimsize": "1 1 1"}, None, "dimsize comes twice"),
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


SECRET = b"S" * 385  # as many bytes as SHAPE claims


@pytest.mark.parametrize(
    "line",
    [
        "ElementDataFile : {}",
        "ElementDataFile:{}",
        "  ElementDataFile\t=\t{}",
        "\tElementDataFile : {}",
        "ElementDataFile = : {}",
        "ElementDataFile == {}",
        "Comment : x\nElementDataFile : {}\r",
        "Comment = x\rElementDataFile : {}",
        "Comment\x0bElementDataFile : {}",
        "Comment\nElementDataFile : {}",
    ],
)
@pytest.mark.parametrize("name", ["{folder}/secret", "../secret", "link.raw"])
def test_no_spelling_of_the_data_file_leads_out_of_the_folder(tmp_path, line, name):
    """MetaIO itself takes most of these lines for the data file's, and the first one counts."""
    (tmp_path / "secret").write_bytes(SECRET)
    path = tmp_path / "scan" / "oct.mhd"
    write_metaimage(path, random_volume(SHAPE))
    (tmp_path / "scan" / "link.raw").symlink_to(tmp_path / "secret")
    head, last = path.read_text().split("ElementDataFile")
    bad = line.format(name.format(folder=tmp_path))
    path.write_text(f"{head}{bad}\nElementDataFile{last}", newline="")
    with pytest.raises(BadInputError) as error:
        read_volume(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 400


def test_a_linked_folder_or_header_given_by_the_user_is_read(tmp_path):
    voxels = random_volume(SHAPE)
    write_metaimage(tmp_path / "real" / "oct.mhd", voxels)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    np.testing.assert_array_equal(read_volume(tmp_path / "linked" / "oct.mhd").voxels, voxels)
    write_metaimage(tmp_path / "real" / "one.mha", voxels, ElementDataFile="LOCAL")
    with open(tmp_path / "real" / "one.mha", "ab") as file:
        file.write(voxels.tobytes())
    (tmp_path / "one.mha").symlink_to(tmp_path / "real" / "one.mha")
    np.testing.assert_array_equal(read_volume(tmp_path / "one.mha").voxels, voxels)


def itk_reads(path):
    image = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayFromImage(image), (image.GetSpacing(), image.GetOrigin(), image.GetDirection())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"BinaryData": "T", "BinaryDataByteOrderMSB": "1"},
        {"Comment": "a = b : c", "ElementMin": 3, "ITK_InputFilterName": "MetaImageIO"},
        {"ElementSize": "9 9 9", "Modality": "MET_MOD_OTHER"},
        {"Offset": "3 -4 5.5e-1", "TransformMatrix": "0.8 0.6 0 -0.6 0.8 0 0 0 1"},
        {"TransformMatrix": "1 0 0 0 0 1 0 -1 0", "HeaderSize": -1},
        {"ElementDataFile": "LOCAL"},
        {"ElementDataFile": "Local"},
    ],
)
@pytest.mark.parametrize("separator", [" = ", ":"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_what_is_read_is_what_simpleitk_reads(tmp_path, dtype, separator, fields):
    voxels = random_volume(SHAPE, "uint8").astype(dtype)
    write_metaimage(tmp_path / "a.mhd", voxels, **fields)
    text = (tmp_path / "a.mhd").read_text().replace(" = ", separator, 99)
    data = voxels.tobytes() if "ElementDataFile" in fields else b""
    (tmp_path / "a.mhd").write_bytes(text.replace("\n", "\r\n").encode() + data)
    theirs, place = itk_reads(tmp_path / "a.mhd")
    volume = read_volume(tmp_path / "a.mhd")
    assert volume.voxels.dtype == theirs.dtype
    np.testing.assert_array_equal(volume.voxels, theirs)
    ours = volume.geometry
    np.testing.assert_allclose([*ours.spacing, *ours.origin, *ours.direction], [n for part in place for n in part])


@pytest.mark.parametrize("flag", ["T", "1", "true", "TRUE"])
def test_every_spelling_of_compressed_is_unpacked_or_refused(tmp_path, flag):
    voxels = random_volume(SHAPE)
    write_metaimage(tmp_path / "packed.mhd", voxels, compressed=True, CompressedData=flag)
    np.testing.assert_array_equal(read_volume(tmp_path / "packed.mhd").voxels, voxels)
    write_metaimage(tmp_path / "plain.mhd", voxels, CompressedData=flag)  # MetaIO gives what memory held
    with pytest.raises(BadInputError, match="compressed data is damaged"):
        read_volume(tmp_path / "plain.mhd")


@pytest.mark.parametrize("ending", ["cut", "more"])
def test_a_stream_that_ends_elsewhere(tmp_path, ending):
    write_metaimage(tmp_path / "oct.mhd", random_volume(SHAPE), compressed=True)
    drop_line(tmp_path / "oct.mhd", "CompressedDataSize")
    packed = (tmp_path / "oct.zraw").read_bytes()
    (tmp_path / "oct.zraw").write_bytes(packed[:-2] if ending == "cut" else packed + b"x")
    with pytest.raises(BadInputError, match="does not end where it should"):
        read_volume(tmp_path / "oct.mhd")


def test_a_highly_compressed_volume_comes_back_whole(tmp_path):
    voxels = np.zeros((30, 400, 400), np.uint16)
    voxels[29, 399, 399] = 7
    write_metaimage(tmp_path / "oct.mhd", voxels, compressed=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "oct.mhd").voxels, voxels)


def test_a_file_that_is_no_header(tmp_path):
    (tmp_path / "oct.mhd").write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(BadInputError, match="no ElementDataFile line"):
        read_header(tmp_path / "oct.mhd")


def test_compressed_terabytes_are_refused_from_the_header(tmp_path):
    write_metaimage(tmp_path / "oct.mhd", random_volume(SHAPE), compressed=True, DimSize="1000 1000 400")
    with pytest.raises(BadInputError, match=r"oct\.zraw cannot hold that"):
        read_volume(tmp_path / "oct.mhd")


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_truncated_compressed_data(tmp_path, keep):
    write_metaimage(tmp_path / "oct.mhd", random_volume((20, 30, 40)), compressed=True)
    packed = (tmp_path / "oct.zraw").read_bytes()
    (tmp_path / "oct.zraw").write_bytes(packed[: int(len(packed) * keep)])
    with pytest.raises(BadInputError, match=r"CompressedDataSize is \d+, oct\.zraw holds \d+; copy it again"):
        read_volume(tmp_path / "oct.mhd")
    drop_line(tmp_path / "oct.mhd", "CompressedDataSize")
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
