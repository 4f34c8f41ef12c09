"""Volumes of every format: voxels bit for bit, spacing only where the file says it, masks in the same place, bad files named.

Files are written byte by byte (raw_data.py), by SimpleITK or by pydicom; SimpleITK reads them and the masks for comparison.
"""

import io
import math

import numpy as np
import pytest
from nifti_data import ORIGIN, write_nifti
from PIL import Image
from raw_data import VENDORS, random_volume, write_metaimage


SimpleITK = pytest.importorskip("SimpleITK")
pytest.importorskip("pydicom")

from dicom_data import CT, OCT, PHOTOGRAPH, dataset_of, save, write_oct, write_series
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from modeling_resformer.errors import BadInputError
from modeling_resformer.image_processing_pil_resformer import ResFormerImageProcessorPil
from modeling_resformer.volumes.dicom import read_dicom_image
from modeling_resformer.volumes.finding import find_dicom_images, find_volumes, is_volume, mask_suffix
from modeling_resformer.volumes.scan import read_scan, write_mask_volume


SHAPE = (5, 7, 11)  # z, y, x: all different, so that a swapped axis shows
TURNED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
MIRRORED = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)


def scan(path):
    (source,) = find_volumes(path)
    return read_scan(source)


def itk_image(voxels, spacing=(0.5, 0.25, 2.0), origin=ORIGIN, direction=TURNED):
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def place(image):
    return [image.GetSpacing(), image.GetOrigin(), image.GetDirection()]


def problem_of(path):
    with pytest.raises(BadInputError) as error:
        scan(path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


# Voxels, spacing, geometry ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii", ".nii.gz"])
def test_every_format_gives_the_same_voxels_slices_and_millimetres(tmp_path, suffix, dtype):
    voxels = random_volume(SHAPE, "uint8").astype(dtype)
    if dtype == "uint16":
        voxels = voxels * 257  # the low bits too
    SimpleITK.WriteImage(itk_image(voxels), str(tmp_path / f"eye.left{suffix}"))
    volume = scan(tmp_path / f"eye.left{suffix}")
    assert volume.voxels.dtype == dtype
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.spacing == (2.0, 0.25, 0.5)
    assert (volume.pixel_spacing, volume.slice_spacing, volume.num_slices) == ((0.25, 0.5), 2.0, 5)
    assert volume.source.name == "eye.left"
    assert np.shares_memory(volume.voxels[2], volume.voxels)


@pytest.mark.parametrize("direction", [TURNED, MIRRORED])
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii", ".nii.gz"])
def test_the_mask_lies_where_its_volume_lies(tmp_path, suffix, direction):
    voxels = random_volume(SHAPE, "uint16")
    path = tmp_path / f"oct{suffix}"
    SimpleITK.WriteImage(itk_image(voxels, (0.0117, 0.00196, 0.047), ORIGIN, direction), str(path))
    volume = scan(path)
    mask = (voxels > 30000).astype(np.uint8) * 3
    written = write_mask_volume(tmp_path / "masks" / f"oct{mask_suffix(volume.source)}", mask, volume)
    assert written.name == ("oct.mha" if suffix in (".mhd", ".mha") else "oct.nii.gz")
    image, original = SimpleITK.ReadImage(str(written)), SimpleITK.ReadImage(str(path))
    assert image.GetPixelID() == SimpleITK.sitkUInt8
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), mask)
    if written.suffix == ".mha":  # decimal text keeps every digit, NIfTI's cosines are 32-bit floats
        assert place(image) == place(original)
    for ours, theirs in zip(place(image), place(original), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    # ITK itself checks that both grids agree before it combines them.
    inside = SimpleITK.Mask(original, image)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(inside), np.where(mask, voxels, 0))
    assert [file.name for file in written.parent.iterdir()] == [written.name]


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_volume_of_each_vendor_of_retouch(tmp_path, vendor):
    _, dtype, slices, height, width, spacing = VENDORS[vendor]
    voxels = random_volume((slices // 8, height // 8, width // 8), dtype)
    write_metaimage(tmp_path / "oct.mhd", voxels, spacing, Offset="3 -4 5.5", TransformMatrix="1 0 0 0 0 1 0 -1 0")
    volume = scan(tmp_path / "oct.mhd")
    assert volume.spacing == spacing[::-1] and volume.voxels.dtype == dtype
    mask = (voxels > voxels.mean()).astype(np.uint8)
    written = SimpleITK.ReadImage(str(write_mask_volume(tmp_path / "mask.mha", mask, volume)))
    assert place(written) == place(SimpleITK.ReadImage(str(tmp_path / "oct.mhd")))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), mask)


def test_a_mask_of_another_shape_is_not_written(tmp_path):
    SimpleITK.WriteImage(itk_image(random_volume(SHAPE)), str(tmp_path / "oct.mha"))
    with pytest.raises(ValueError, match=r"a mask \(5, 7, 10\)"):
        write_mask_volume(tmp_path / "mask.mha", np.zeros((5, 7, 10), np.uint8), scan(tmp_path / "oct.mha"))
    assert not (tmp_path / "mask.mha").exists()


# Unknown spacing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "spacing"),
    [
        (2, (2.0, 0.25, 0.5)),
        (1, (2000.0, 250.0, 500.0)),
        (3, (0.002, 0.00025, 0.0005)),
        (0, None),
        (2 | 8, (2, 0.25, 0.5)),
    ],
)
def test_nifti_units_decide_whether_lengths_are_millimetres(tmp_path, units, spacing):
    volume = scan(write_nifti(tmp_path / "a.nii.gz", random_volume(SHAPE), units))
    assert volume.voxels.shape == SHAPE
    assert volume.spacing == (None if spacing is None else pytest.approx(spacing, rel=1e-6))


def test_nifti_spacing_is_the_decimal_that_was_meant(tmp_path):
    volume = scan(write_nifti(tmp_path / "a.nii", random_volume(SHAPE), pixdim=(0.0117, 0.00196, 0.047)))
    assert volume.spacing == (0.047, 0.00196, 0.0117)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nii", ".nii.gz"])
def test_a_file_that_says_nothing_but_defaults_has_no_millimetres(tmp_path, suffix):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(random_volume(SHAPE)), str(tmp_path / f"a{suffix}"))
    volume = scan(tmp_path / f"a{suffix}")
    assert (volume.spacing, volume.pixel_spacing, volume.slice_spacing) == (None, None, None)


def test_a_metaimage_without_spacing_is_read_without_millimetres(tmp_path):
    voxels = random_volume(SHAPE)
    write_metaimage(tmp_path / "a.mhd", voxels, Offset="1 2 3")
    text = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text("".join(s for s in text.splitlines(True) if not s.startswith("ElementSpacing")))
    volume = scan(tmp_path / "a.mhd")
    assert volume.spacing is None
    np.testing.assert_array_equal(volume.voxels, voxels)


# DICOM -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0.8, 0.6, 0, -0.6, 0.8, 0), (1, 0, 0, 0, 0, -1)])
def test_a_series_lies_as_simpleitk_sorts_and_places_it(tmp_path, orientation):
    voxels = random_volume(SHAPE, "uint16")
    write_series(tmp_path / "scan", voxels, orientation=orientation)
    volume = scan(tmp_path / "scan")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "scan")))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.spacing == pytest.approx((2.5, 0.5, 0.75))
    written = SimpleITK.ReadImage(
        str(write_mask_volume(tmp_path / "mask.nii.gz", (voxels > 9999).astype(np.uint8), volume))
    )
    for ours, theirs in zip(place(written), place(image), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_several_series_in_one_folder_are_named_apart(tmp_path):
    first, second = random_volume(SHAPE, seed=1), random_volume((3, 7, 12), seed=2)
    write_series(tmp_path / "eye", first, SeriesInstanceUID="1.2.3.5", SeriesNumber=2)
    write_series(tmp_path / "second", second, SeriesInstanceUID="1.2.3.6", SeriesNumber=11)
    for path in (tmp_path / "second").iterdir():
        path.rename(tmp_path / "eye" / f"b{path.name}")
    sources = {source.name: source for source in find_volumes(tmp_path / "eye")}
    assert set(sources) == {"eye_series2", "eye_series11"}
    np.testing.assert_array_equal(read_scan(sources["eye_series2"]).voxels, first)
    np.testing.assert_array_equal(read_scan(sources["eye_series11"]).voxels, second)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_oct_of_several_frames(tmp_path, dtype):
    voxels = random_volume(SHAPE, dtype)
    write_oct(tmp_path / "oct.dcm", voxels)
    volume = scan(tmp_path / "oct.dcm")
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "oct.dcm"))), voxels)
    assert volume.spacing == (0.12, 0.0039, 0.0115)
    # Columns run along the patient's x, rows along -z, B-scans along y.
    assert volume.geometry.direction == (1, 0, 0, 0, 0, 1, 0, -1, 0)
    assert volume.geometry.origin == (1.0, 2.0, 3.0)
    assert volume.intensity_range() is None


def test_an_oct_keeps_silent_on_distances_its_file_does_not_give(tmp_path):
    voxels = random_volume(SHAPE)
    write_oct(tmp_path / "a.dcm", voxels, positions=False)
    assert scan(tmp_path / "a.dcm").spacing == (None, 0.0039, 0.0115)  # a thickness of slices is no distance
    write_oct(tmp_path / "b.dcm", voxels, spacing=None, positions=False)
    assert scan(tmp_path / "b.dcm").spacing is None
    write_oct(
        tmp_path / "c.dcm", voxels, spacing=None, positions=False, PixelSpacing=[0.5, 0.25], SpacingBetweenSlices=3
    )
    assert scan(tmp_path / "c.dcm").spacing == (3.0, 0.5, 0.25)


def test_a_series_without_positions_goes_by_its_numbers(tmp_path):
    voxels = random_volume(SHAPE)
    write_series(tmp_path / "a", voxels, ImagePositionPatient=None, PixelSpacing=None)
    volume = scan(tmp_path / "a")
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.spacing is None


def test_lossless_compression_that_pydicom_unpacks(tmp_path):
    voxels = random_volume(SHAPE, "uint16")
    dataset = dataset_of(voxels, OCT)
    dataset.compress(RLELossless)
    save(dataset, tmp_path / "rle.dcm")
    np.testing.assert_array_equal(scan(tmp_path / "rle.dcm").voxels, voxels)


def packed(dataset, frames, kind, syntax, **options):
    """The same dataset with each frame compressed by Pillow."""
    pieces = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, kind, **options)
        pieces.append(buffer.getvalue())
    dataset.PixelData = encapsulate(pieces)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_jpeg_2000_as_oct_cameras_use_it(tmp_path, dtype):
    voxels = random_volume((4, 40, 36), dtype)
    dataset = packed(dataset_of(voxels, OCT), voxels, "JPEG2000", JPEG2000Lossless, no_jp2=True)
    np.testing.assert_array_equal(scan(save(dataset, tmp_path / "oct.dcm")).voxels, voxels)


def test_a_photograph_in_jpeg_keeps_its_colours(tmp_path):
    photograph = np.zeros((32, 48, 3), np.uint8)
    photograph[:, :24], photograph[:, 24:] = (200, 60, 40), (30, 90, 180)
    dataset = dataset_of(photograph, PHOTOGRAPH, PhotometricInterpretation="YBR_FULL_422")
    save(packed(dataset, [photograph], "JPEG", JPEGBaseline8Bit, quality=95), tmp_path / "mole.dcm")
    image = np.asarray(read_dicom_image(tmp_path / "mole.dcm")).astype(int)
    assert abs(image - photograph)[:, [4, 40]].max() <= 4


# Brightness ------------------------------------------------------------------------------------------------------------


def processed(volume, configured=None):
    processor = ResFormerImageProcessorPil(do_normalize=False, do_resize=False)
    ranges = volume.intensity_range(configured)
    return processor(list(volume.voxels), intensity_range=ranges)["pixel_values"][0][0]


def test_twelve_bits_are_as_bright_as_sixteen(tmp_path):
    voxels = random_volume(SHAPE, "uint16") >> 4
    write_oct(tmp_path / "a.dcm", voxels, BitsStored=12)
    volume = scan(tmp_path / "a.dcm")
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(processed(volume), voxels[0] / 4095, rtol=1e-6)


def test_inverted_grey_is_turned_round(tmp_path):
    voxels = random_volume(SHAPE, "uint16") >> 4
    write_oct(tmp_path / "a.dcm", voxels, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(scan(tmp_path / "a.dcm").voxels, 4095 - voxels)


def test_slope_and_intercept_are_applied_and_leave_the_brightness_alone(tmp_path):
    voxels = random_volume(SHAPE, "uint16") >> 4
    write_series(tmp_path / "ct", voxels, BitsStored=12, RescaleSlope=2, RescaleIntercept=-1024)
    volume = scan(tmp_path / "ct")
    np.testing.assert_array_equal(volume.voxels, voxels * 2.0 - 1024)
    np.testing.assert_allclose(processed(volume), voxels[0] / 4095, rtol=1e-5, atol=1e-6)
    window = processed(volume, (-160, 240))
    np.testing.assert_allclose(window, ((voxels[0] * 2.0 - 1024 + 160) / 400).clip(0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-5, 100), (0, 256), (-1000, 3000)])
def test_signed_voxels_need_a_range(tmp_path, low, high):
    voxels = np.linspace(low, high, math.prod(SHAPE)).astype(np.int16).reshape(SHAPE)
    SimpleITK.WriteImage(itk_image(voxels), str(tmp_path / "a.mha"))
    volume = scan(tmp_path / "a.mha")
    with pytest.raises(BadInputError, match=rf"a\.mha: int16 voxels of {low}\.\.{high} .* set intensity_range"):
        volume.intensity_range()
    np.testing.assert_allclose(processed(volume, (low, high)), (voxels[0] - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_signed_voxels_of_eight_bits_mean_what_eight_bits_mean(tmp_path, dtype):
    voxels = random_volume(SHAPE)
    SimpleITK.WriteImage(itk_image(voxels.astype(dtype)), str(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(processed(scan(tmp_path / "a.nii.gz")), voxels[0] / 255, rtol=1e-6)


def test_floats_up_to_one_are_not_guessed(tmp_path):
    SimpleITK.WriteImage(itk_image(np.linspace(0, 1, 385, dtype=np.float32).reshape(SHAPE)), str(tmp_path / "a.mha"))
    with pytest.raises(BadInputError, match=r"float32 voxels of 0\.\.1 "):
        scan(tmp_path / "a.mha").intensity_range()


def test_sixteen_bits_differ_from_eight_by_rounding_only(tmp_path):
    deep = random_volume(SHAPE, "uint16")
    write_metaimage(tmp_path / "deep.mhd", deep)
    write_metaimage(tmp_path / "flat.mhd", np.rint(deep / 257).astype(np.uint8))
    both = [processed(scan(tmp_path / name)) for name in ("deep.mhd", "flat.mhd")]
    assert 0 < abs(both[0] - both[1]).max() <= 0.5 / 255 + 1e-6


# What is a volume, and what an image ----------------------------------------------------------------------------------


def test_volumes_are_told_from_images(tmp_path):
    grey, colour = random_volume(SHAPE), random_volume((7, 11, 3))
    write_metaimage(tmp_path / "a.mhd", grey)
    write_nifti(tmp_path / "b.nii.gz", grey)
    write_oct(tmp_path / "c.dcm", grey)
    write_series(tmp_path / "series", grey)
    save(dataset_of(colour, PHOTOGRAPH, SeriesInstanceUID="1.9"), tmp_path / "mole.dcm")
    pages = [Image.fromarray(page) for page in grey]
    pages[0].save(tmp_path / "d.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "single.tif")
    Image.fromarray(colour).save(tmp_path / "photo.png")
    (tmp_path / "notes").write_text("no image at all")
    assert [source.name for source in find_volumes(tmp_path)] == ["a", "b", "d", "c"]
    assert find_dicom_images(tmp_path) == [tmp_path / "mole.dcm"]
    assert is_volume(tmp_path / "series") and is_volume(tmp_path / "c.dcm") and is_volume(tmp_path / "d.tif")
    for name in ("mole.dcm", "single.tif", "photo.png", "a.raw", "notes"):
        assert not is_volume(tmp_path / name)
    np.testing.assert_array_equal(scan(tmp_path / "d.tif").voxels, grey)
    assert scan(tmp_path / "d.tif").spacing is None


def test_photographs_in_dicom(tmp_path):
    colour, deep = random_volume((7, 11, 3)), random_volume((7, 11), "uint16") >> 6
    save(dataset_of(colour, PHOTOGRAPH), tmp_path / "colour.dcm")
    np.testing.assert_array_equal(np.asarray(read_dicom_image(tmp_path / "colour.dcm")), colour)
    for name, kind in (("MONOCHROME2", deep), ("MONOCHROME1", 1023 - deep)):
        save(dataset_of(deep, PHOTOGRAPH, BitsStored=10, PhotometricInterpretation=name), tmp_path / "xray.dcm")
        image = np.asarray(read_dicom_image(tmp_path / "xray.dcm"))
        assert image.dtype == np.uint16
        np.testing.assert_allclose(image / 65535, kind / 1023, atol=1e-5)
    assert find_dicom_images(tmp_path / "xray.dcm") == [tmp_path / "xray.dcm"]


# Bad files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": b"ni1\0"}, "no NIfTI-1 header of a single file"),
        ({"dim": (4, 11, 7, 5, 3, 1, 1, 1)}, "its axes are 11 x 7 x 5 x 3, expected three"),
        ({"dim": (2, 11, 35, 1, 1, 1, 1, 1)}, "its axes are 11 x 35, expected three"),
        ({"dim": (3, 11, -7, 5, 1, 1, 1, 1)}, "11 x -7 x 5 of data type 2"),
        ({"dim": (3, 11, 7, 6, 1, 1, 1, 1)}, "claims 814 bytes, it holds 737: it is truncated"),
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "has 32767 x 32767 pixels, more than"),
        ({"datatype": 128}, "data type 128, expected positive sizes and one plain number per voxel"),
        # ITK turns for ever around this one.
        ({"srow": (0, 0, 0, math.inf, *(0,) * 8)}, "its sform holds NaN or infinite values"),
        ({"srow": (math.nan,) * 12}, "its sform holds NaN or infinite values"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_bad_nifti_files_are_named(tmp_path, suffix, changes, message):
    path = write_nifti(tmp_path / f"bad{suffix}", random_volume(SHAPE), **changes)
    found = problem_of(path)
    assert message in found and str(path) in found


def test_nifti_that_cannot_be_unpacked_or_is_too_small_to_hold_what_it_claims(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", random_volume((20, 30, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cannot be unpacked" in problem_of(path)
    path.write_bytes(b"\x89PNG" + bytes(500))
    assert "cannot be unpacked" in problem_of(path)
    write_nifti(path, np.zeros(SHAPE, np.uint8), dim=(3, 1000, 1000, 500, 1, 1, 1, 1))
    assert "cannot hold that" in problem_of(path)


def test_not_a_number_is_named(tmp_path):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[4, 6, 10] = np.inf
    assert "holds NaN or infinite values" in problem_of(write_nifti(tmp_path / "a.nii", voxels))


def series_with(tmp_path, **fields):
    return write_series(tmp_path / "scan", random_volume(SHAPE, "uint16"), **fields)


def test_bad_series_are_named(tmp_path):
    paths = series_with(tmp_path)
    paths[2].unlink()
    assert "lies 5 mm from the slice before it, the others 2.5 mm; slices are missing" in problem_of(tmp_path / "scan")
    paths = series_with(tmp_path)
    (tmp_path / "scan" / "copy.dcm").write_bytes(paths[2].read_bytes())
    assert "lies where another slice of its series lies" in problem_of(tmp_path / "scan")
    (tmp_path / "scan" / "copy.dcm").unlink()
    paths = series_with(tmp_path, ImagePositionPatient=None)
    paths[2].unlink()
    assert "InstanceNumber 3 is missing" in problem_of(tmp_path / "scan")
    paths = series_with(tmp_path)
    save(dataset_of(random_volume((7, 12), "uint16"), CT), paths[3])
    assert "Columns is 12, that of 000.dcm in the same series 11" in problem_of(tmp_path / "scan")


def test_bad_frames_are_named(tmp_path):
    path, voxels = tmp_path / "oct.dcm", random_volume(SHAPE, "uint16")
    write_oct(path, voxels)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert f"{path}: its pixels cannot be decoded" in problem_of(path)
    path.write_bytes(content[:300])
    assert str(path) in problem_of(path)
    path.write_bytes(b"no DICOM file")
    assert "not a DICOM file that can be read" in problem_of(path)
    write_oct(path, voxels, NumberOfFrames=4000)
    assert "cannot hold that" in problem_of(path)
    write_oct(path, voxels, NumberOfFrames=2_000_000_000)
    assert "claims 2000000000 x 7 x 11 voxels, more than" in problem_of(path)
    dataset = dataset_of(random_volume((2, 7, 11, 3)), PHOTOGRAPH, NumberOfFrames=2, Rows=7, Columns=11)
    assert "frames in colour (RGB), expected grey" in problem_of(save(dataset, path))


def test_a_compression_no_decoder_takes_is_named(tmp_path):
    dataset = dataset_of(random_volume(SHAPE), OCT)
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    found = problem_of(save(dataset, tmp_path / "a.dcm"))
    assert "its pixels cannot be decoded" in found and "export it uncompressed" in found


def test_pages_of_two_sizes_and_in_colour_are_named(tmp_path):
    pages = [Image.new("L", (11, 7)), Image.new("L", (11, 8))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "page 1 has another size" in problem_of(tmp_path / "a.tif")
    pages = [Image.new("RGB", (11, 7))] * 2
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "pages of mode RGB" in problem_of(tmp_path / "a.tif")
