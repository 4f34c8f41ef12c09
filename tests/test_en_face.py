"""Maps of a volume seen from the front, and the sheet of its worst slices: counted by hand, and read off the images."""

import numpy as np
import pytest


pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from matplotlib import colormaps
from matplotlib.figure import Figure

from modeling_resformer.drawing import class_colour
from modeling_resformer.prediction import en_face
from modeling_resformer.prediction.en_face import (
    area_lines,
    draw_en_face,
    draw_map,
    round_length,
    thickness_maps,
    worst_slices,
    worst_slices_sheet,
)


NAMES = ["background", "IRF", "SRF"]
SPACING = (0.12, 0.004, 0.012)  # slice, row, column in mm


@pytest.fixture
def masks():
    """Four B-scans of 20 x 30: IRF 5 rows deep over 10 columns in one, 8 rows in the next, SRF in the last."""
    volume = np.zeros((4, 20, 30), dtype=np.uint8)
    volume[1, 3:8, 10:20] = 1
    volume[2, 3:8, 10:20] = 1
    volume[2, 12:15, 10:20] = 1  # below the first, in the same A-scans
    volume[3, 0:2, 0:4] = 2
    return volume


def test_thickness_counts_the_pixels_of_each_a_scan(masks):
    irf, srf = thickness_maps(masks, 3)
    expected = np.zeros((4, 30), int)
    expected[1, 10:20], expected[2, 10:20] = 5, 8
    np.testing.assert_array_equal(irf, expected)
    assert srf[3, :4].tolist() == [2] * 4 and srf.sum() == 8


def drawn_map(counts, spacing):
    panel, scale = Figure().subplots(2)
    draw_map(panel, scale, "IRF", counts, spacing)
    return panel, panel.images[0]


def test_a_map_is_in_micrometres_with_square_millimetres(masks):
    panel, image = drawn_map(thickness_maps(masks, 3)[0], SPACING)
    values = image.get_array()
    assert values.max() == pytest.approx(8 * 4)  # 8 pixels of 4 micrometres
    assert values.mask.sum() == 4 * 30 - 20
    assert panel.get_aspect() == pytest.approx(0.12 / 0.012)  # one B-scan is drawn as high as ten A-scans are wide
    assert panel.get_title() == "IRF: at most 32 µm, in 2 of 4 B-scans"
    assert image.colorbar.ax.get_ylabel() == "thickness (µm)"
    bar, label = panel.lines[0].get_xdata(), panel.texts[0].get_text()
    assert label == "0.05 mm"
    assert bar[1] - bar[0] == pytest.approx(0.05 / 0.012)


@pytest.mark.parametrize(
    ("spacing", "unit", "bars"),
    [
        (None, "pixels", 0),
        ((None, 0.004, 0.012), "µm", 0),
        ((0.1, None, 0.01), "pixels", 1),
        ((np.nan,) * 3, "pixels", 0),
    ],
)
def test_a_map_has_only_units_that_are_known(masks, spacing, unit, bars):
    panel, image = drawn_map(thickness_maps(masks, 3)[0], spacing)
    assert image.colorbar.ax.get_ylabel() == f"thickness ({unit})"
    assert len(panel.lines) == bars
    if not bars:
        assert panel.get_aspect() == pytest.approx(30 / 4)  # a square


def test_an_absent_class_is_said_to_be_none_and_has_no_colour_bar():
    panel, image = drawn_map(np.zeros((4, 30), int), SPACING)
    assert panel.get_title() == "IRF: none found"
    assert "none found" in [text.get_text() for text in panel.texts]
    assert image.colorbar is None
    assert panel.figure.axes == [panel]


def test_the_image_shows_each_map_in_its_colours(masks):
    image = np.asarray(draw_en_face(masks, NAMES, SPACING, "TRAIN001"))
    assert image.shape[2] == 3
    brightest = (np.array(colormaps["viridis"](1.0)[:3]) * 255).round()
    middle = (np.array(colormaps["viridis"](5 / 8)[:3]) * 255).round()
    left, right = np.split(image, [image.shape[1] // 2], axis=1)

    def area(part, colour):
        return (abs(part.astype(int) - colour).max(axis=2) <= 2).sum()

    # On the left both thicknesses are equally wide and one B-scan high; right of it only the greatest occurs.
    assert area(left, brightest) > 300 and area(left, middle) == pytest.approx(area(left, brightest), rel=0.15)
    assert area(right, brightest) > 100


def test_more_classes_than_fit_one_row_are_drawn():
    image = draw_en_face(np.zeros((3, 4, 5), np.uint8), ["background", *"abcd"])
    assert 1.4 < image.width / image.height < 1.8  # three maps and one below them


@pytest.mark.parametrize(("length", "rounded"), [(1.2, 1), (2.0, 2), (4.99, 2), (7, 5), (0.072, 0.05), (0.1, 0.1)])
def test_scale_bars_have_round_lengths(length, rounded):
    assert round_length(length) == pytest.approx(rounded)


def test_the_worst_slices_come_first_and_clean_ones_not_at_all(masks):
    assert worst_slices(masks) == [2, 1, 3]  # 80, 50 and 8 pixels
    assert worst_slices(masks, count=2) == [2, 1]
    assert worst_slices(np.zeros((5, 4, 4), np.uint8)) == []


def test_areas_in_captions(masks):
    assert area_lines(masks[2], NAMES, (0.004, 0.012)) == ["IRF: 80 pixels, 0.0038 mm2"]
    assert area_lines(masks[3], NAMES, None) == ["SRF: 8 pixels"]
    assert area_lines(masks[0], NAMES, None) == ["no class found"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_the_sheet_draws_contours_on_volumes_of_every_depth(masks, dtype):
    voxels = (np.arange(masks.size).reshape(masks.shape) % 251).astype(dtype)
    sheet = worst_slices_sheet(voxels, masks, NAMES, SPACING, "TRAIN001")
    pixels = np.asarray(sheet).reshape(-1, 3)
    three = worst_slices_sheet(voxels, masks, NAMES, count=3).size
    assert sheet.size == three and three[0] > worst_slices_sheet(voxels, masks, NAMES, count=1).width
    for index in (1, 2):
        assert (abs(pixels.astype(int) - class_colour(index)).max(axis=1) < 12).sum() > 100


def test_the_sheet_names_its_slices_what_was_said_of_them_and_how_many_there_are(masks, monkeypatch):
    captions, titles = [], []
    captioned, headed = en_face.captioned, en_face.headed_legend
    monkeypatch.setattr(
        en_face, "captioned", lambda *given: captions.append(given[1].split("\n")) or captioned(*given)
    )
    monkeypatch.setattr(en_face, "headed_legend", lambda *given: titles.append(given[2]) or headed(*given))
    said = [[], [], ["flagged: IRF 0.90", "flagged: SRF 0.60"], []]
    worst_slices_sheet(masks, masks, NAMES, None, "TRAIN001", count=2, said=said)
    assert captions == [
        ["slice 3 of 4 (slice_index 2)", "IRF: 80 pixels", "flagged: IRF 0.90", "flagged: SRF 0.60"],
        ["slice 2 of 4 (slice_index 1)", "IRF: 50 pixels"],
    ]
    worst_slices_sheet(masks, masks, NAMES)
    worst_slices_sheet(masks, np.zeros_like(masks), NAMES, title="TRAIN002")
    assert titles == [
        "TRAIN001: 2 of the 3 slices with a finding, the largest first; 4 slices in all",
        "all 3 slices with a finding; 4 slices in all",
        "TRAIN002: none of 4 slices has a finding; the middle one is shown",
    ]


def test_a_clean_volume_shows_its_middle_slice():
    sheet = worst_slices_sheet(np.zeros((5, 40, 40), np.uint8), np.zeros((5, 40, 40), np.uint8), NAMES)
    assert sheet.width < 400
