"""Shapes measured by hand, by the formula of an ellipsoid, by every pair of corners, and by SimpleITK."""

import math

import numpy as np
import pytest
from raw_data import VENDORS


SimpleITK = pytest.importorskip("SimpleITK")
pytest.importorskip("scipy")

from modeling_resformer.prediction.measurements import measure_mask, measure_volume


NAMES = ["background", "IRF", "SRF", "PED"]
OCT_PIXEL = (0.0039, 0.0117)  # row, column in mm


def measured(mask, **options):
    return measure_mask(np.asarray(mask, dtype=np.uint8), NAMES, **options)["IRF"]


def blank(height=40, width=50):
    return np.zeros((height, width), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 1), (4, 3), (30, 40)])
def test_a_rectangle_is_as_long_as_its_diagonal_from_corner_to_corner(height, width):
    mask = blank()
    mask[2 : 2 + height, 5 : 5 + width] = 1
    facts = measured(mask, spacing=OCT_PIXEL)
    assert facts.area_pixels == height * width
    assert facts.area_share == height * width / 2000
    assert facts.lesion_count == 1
    assert facts.longest_diameter_pixels == math.hypot(height, width)
    assert facts.area_mm2 == pytest.approx(height * width * 0.0039 * 0.0117, rel=1e-12)
    assert facts.longest_diameter_mm == pytest.approx(math.hypot(height * 0.0039, width * 0.0117), rel=1e-12)


def test_pixels_that_touch_by_a_corner_are_one_lesion():
    facts = measured([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert (facts.area_pixels, facts.lesion_count) == (2, 1)
    assert facts.longest_diameter_pixels == math.hypot(2, 2)


def test_pixels_a_gap_apart_are_two_lesions_and_their_distance_is_no_diameter():
    facts = measured([[1, 0, 0, 0, 1, 1]])
    assert (facts.area_pixels, facts.lesion_count) == (3, 2)
    assert facts.longest_diameter_pixels == math.hypot(1, 2)


def test_an_l_shape_is_longest_between_its_ends():
    mask = blank(6, 6)
    mask[0:5, 0] = 1
    mask[4, 0:4] = 1
    facts = measured(mask)
    assert (facts.area_pixels, facts.lesion_count) == (8, 1)
    # From the outer corner of the upper end, (0, 0), to that of the right end, (5, 4).
    assert facts.longest_diameter_pixels == math.hypot(5, 4)


def test_a_ring_and_what_it_holds_are_two_lesions():
    mask = blank(9, 9)
    mask[0:9, 0:9] = 1
    mask[1:8, 1:8] = 0
    mask[4, 4] = 1
    facts = measured(mask)
    assert (facts.area_pixels, facts.lesion_count) == (33, 2)
    assert facts.longest_diameter_pixels == math.hypot(9, 9)


@pytest.mark.parametrize("radius", [3, 10.5, 60])
def test_a_disc_is_as_long_and_large_as_a_circle_but_for_its_pixels(radius):
    side = 2 * math.ceil(radius) + 5
    y, x = np.mgrid[:side, :side] - side // 2
    facts = measured(x**2 + y**2 <= radius**2)
    assert 2 * radius <= facts.longest_diameter_pixels <= 2 * radius + math.sqrt(2)
    assert facts.area_pixels == pytest.approx(math.pi * radius**2, rel=0.05)


def test_which_lesion_is_longest_depends_on_the_shape_of_the_pixels():
    mask = blank(120, 80)
    mask[0:100, 0] = 1  # 100 pixels deep, 0.39 mm
    mask[110, 10:70] = 1  # 60 pixels wide, 0.702 mm
    facts = measured(mask, spacing=OCT_PIXEL)
    assert facts.longest_diameter_pixels == math.hypot(100, 1)
    assert facts.longest_diameter_mm == pytest.approx(math.hypot(1 * 0.0039, 60 * 0.0117), rel=1e-12)


@pytest.mark.parametrize("spacing", [None, (math.nan, 0.01), (0.01, math.inf), (0.0, 0.01), (None, 0.01), (-1, 1)])
def test_no_millimetres_where_the_spacing_is_not_known(spacing):
    facts = measured([[1, 1], [0, 0]], spacing=spacing)
    assert facts.area_mm2 is None and facts.longest_diameter_mm is None
    assert facts.area_pixels == 2
    volume = measure_volume(np.ones((2, 2, 2), np.uint8), NAMES, None if spacing is None else (0.1, *spacing))["IRF"]
    assert volume.volume_mm3 is None and volume.largest_area_mm2 is None


def test_mean_probability_is_that_of_the_class_over_its_own_pixels():
    mask = np.array([[1, 1, 2], [0, 0, 0]], dtype=np.uint8)
    probabilities = np.zeros((4, 2, 3), dtype=np.float32)
    probabilities[1, 0] = [0.5, 0.75, 0.25]
    probabilities[2, 0] = [0.5, 0.25, 0.625]
    facts = measure_mask(mask, NAMES, probabilities)
    assert (facts["IRF"].mean_probability, facts["SRF"].mean_probability) == (0.625, 0.625)
    assert facts["PED"].mean_probability is None
    assert measure_mask(mask, NAMES, probabilities.max(axis=0))["IRF"].mean_probability == 0.625
    assert measure_mask(mask, NAMES)["IRF"].mean_probability is None


def test_an_absent_class_measures_nothing():
    facts = measure_mask(blank(), NAMES, spacing=OCT_PIXEL)
    assert list(facts) == ["IRF", "SRF", "PED"]
    zero = facts["PED"]
    assert (zero.area_pixels, zero.area_share, zero.lesion_count, zero.longest_diameter_pixels) == (0, 0, 0, 0)
    assert (zero.area_mm2, zero.longest_diameter_mm) == (0, 0)


@pytest.mark.parametrize(
    ("mask", "probabilities", "message"),
    [
        (np.full((2, 2), 4, np.uint8), None, r"holds 4\.\.4; expected 0\.\.3"),
        (np.full((2, 2), -1, np.int64), None, r"holds -1\.\.-1"),
        (np.zeros((2, 2, 2), np.uint8), None, "expected class indices"),
        (np.zeros((2, 2)), None, "float64; expected class indices"),
        (np.zeros((2, 2), np.uint8), np.zeros((3, 2, 2)), "do not fit"),
    ],
)
def test_what_is_no_mask_is_refused(mask, probabilities, message):
    with pytest.raises(ValueError, match=message):
        measure_mask(mask, NAMES, probabilities)


def blobs(shape, seed, share):
    """Smooth noise cut at a level: lesions of many shapes and sizes."""
    noise = SimpleITK.GetImageFromArray(np.random.default_rng(seed).random(shape, dtype=np.float32))
    smooth = SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(noise, 1.2))
    return (smooth > np.quantile(smooth, 1 - share)).astype(np.uint8)


def itk_lesions(mask, spacing):
    """SimpleITK's connected components, which touch by corners too, and their shapes."""
    image = SimpleITK.GetImageFromArray(mask)
    image.SetSpacing(spacing[::-1])
    statistics = SimpleITK.LabelShapeStatisticsImageFilter()
    statistics.ComputeFeretDiameterOn()
    statistics.Execute(SimpleITK.ConnectedComponent(image, True))
    return statistics


@pytest.mark.parametrize("seed", range(4))
def test_lesions_areas_and_diameters_agree_with_simpleitk(seed):
    mask = blobs((60, 70), seed, share=0.2)
    itk = itk_lesions(mask, OCT_PIXEL)
    facts = measured(mask, spacing=OCT_PIXEL)
    assert facts.lesion_count == itk.GetNumberOfLabels() > 5
    assert facts.area_mm2 == pytest.approx(sum(itk.GetPhysicalSize(label) for label in itk.GetLabels()), rel=1e-9)
    # ITK measures between the centres of pixels, ours is longer by at most the diagonal of one.
    centres = max(itk.GetFeretDiameter(label) for label in itk.GetLabels())
    assert centres < facts.longest_diameter_mm <= centres + math.hypot(*OCT_PIXEL) + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_the_longest_diameter_is_that_of_the_farthest_corners(seed):
    mask = blobs((30, 40), seed, share=0.3)
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask), True))
    longest = 0.0
    for label in range(1, labels.max() + 1):
        y, x = np.nonzero(labels == label)
        corners = np.concatenate([np.stack([y + dy, x + dx], 1) for dy in (0, 1) for dx in (0, 1)]) * OCT_PIXEL
        longest = max(longest, np.linalg.norm(corners[:, None] - corners[None], axis=-1).max())
    assert measured(mask, spacing=OCT_PIXEL).longest_diameter_mm == pytest.approx(longest, rel=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35])
def test_lesions_of_a_volume_agree_with_simpleitk(share):
    volume = blobs((12, 30, 35), 7, share)
    itk = itk_lesions(volume, (0.12, 0.0039, 0.0117))
    facts = measure_volume(volume, NAMES, (0.12, 0.0039, 0.0117))["IRF"]
    assert facts.lesion_count == itk.GetNumberOfLabels()
    assert facts.volume_mm3 == pytest.approx(sum(itk.GetPhysicalSize(label) for label in itk.GetLabels()), rel=1e-9)


def test_two_columns_joined_by_a_later_slice_are_one_lesion():
    volume = np.zeros((5, 3, 7), dtype=np.uint8)
    volume[0:3, 1, 1] = volume[0:3, 1, 5] = 1
    assert measure_volume(volume, NAMES)["IRF"].lesion_count == 2
    volume[3, 0, 2:5] = 1  # touches both by corners only
    assert measure_volume(volume, NAMES)["IRF"].lesion_count == 1
    volume[3] = 0
    volume[4, 0, 2:5] = 1  # a slice lies between
    assert measure_volume(volume, NAMES)["IRF"].lesion_count == 3


def test_a_volume_told_slice_by_slice():
    volume = np.zeros((6, 10, 20), dtype=np.uint8)
    volume[1, 0:2, 0:3] = 1  # 6 pixels
    volume[2, 0:4, 0:3] = 1  # 12
    volume[4, 5:9, 5:8] = 1  # 12: as large, but later
    volume[5, 0, 0] = 3
    facts = measure_volume((mask for mask in volume), NAMES, (0.12, 0.0039, 0.0117))
    irf, srf, ped = facts.values()
    assert (irf.voxels, irf.slices_affected, irf.largest_slice, irf.largest_area_pixels) == (30, 3, 2, 12)
    assert irf.lesion_count == 2
    assert irf.volume_mm3 == pytest.approx(30 * 0.12 * 0.0039 * 0.0117, rel=1e-12)
    assert irf.largest_area_mm2 == pytest.approx(12 * 0.0039 * 0.0117, rel=1e-12)
    assert (srf.voxels, srf.slices_affected, srf.largest_slice, srf.lesion_count) == (0, 0, None, 0)
    assert (ped.voxels, ped.largest_slice, ped.lesion_count) == (1, 5, 1)


def test_unknown_slice_spacing_leaves_areas_and_no_volume():
    facts = measure_volume(np.ones((2, 3, 4), np.uint8), NAMES, (None, 0.5, 0.25))["IRF"]
    assert facts.volume_mm3 is None
    assert facts.largest_area_mm2 == 12 * 0.5 * 0.25


def test_slices_of_two_sizes_are_no_volume():
    with pytest.raises(ValueError, match="expected one size"):
        measure_volume([blank(3, 4), blank(4, 3)], NAMES)


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_volume_of_an_ellipsoid_is_within_one_percent(vendor):
    semi_axes = np.array([1.1, 0.25, 0.9])  # slice, row, column in mm
    spacing = np.array(VENDORS[vendor][5][::-1])
    half = np.ceil(semi_axes / spacing).astype(int) + 1
    z, y, x = (np.arange(-n, n + 1) * mm / axis for n, mm, axis in zip(half, spacing, semi_axes, strict=True))
    volume = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= 1).astype(np.uint8) * 2
    facts = measure_volume(volume, NAMES, tuple(spacing))["SRF"]
    assert facts.volume_mm3 == pytest.approx(4 / 3 * math.pi * semi_axes.prod(), rel=0.01)
    assert facts.largest_area_mm2 == pytest.approx(math.pi * 0.25 * 0.9, rel=0.01)
    assert (facts.lesion_count, facts.largest_slice) == (1, half[0])
    assert facts.slices_affected == 2 * math.floor(1.1 / spacing[0]) + 1
