"""scripts/predict.py on real photographs: what it writes, and what it does with what it cannot read."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image, ImageFilter

from modeling_resformer import ResFormerForImageClassification, ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.drawing import arrange, class_colour, displayable, draw_contours, eroded, legend
from modeling_resformer.prediction.pictures import find_pictures, result_names
from modeling_resformer.prediction.writing import mask_picture, write_whole


ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = sorted((ROOT / "examples/isic2017_sample/ISIC-2017_Training_Data").glob("*.jpg"))[:3]


@pytest.fixture(scope="module")
def predict():
    return runpy.run_path(str(ROOT / "scripts/predict.py"))["main"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(id2label={0: "background", 1: "lesion"}, classification_labels=["a", "b"])
    ResFormerForMultiTask(config).save_pretrained(folder)
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def test_masks_overlays_and_scores_are_written(predict, model, tmp_path, capsys):
    assert predict([model, *map(str, PHOTOGRAPHS), "--output", str(tmp_path), "--batch-size", "2"]) == 0
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["picture"] for row in rows] == [str(path) for path in PHOTOGRAPHS]
    for row, path in zip(rows, PHOTOGRAPHS, strict=True):
        with Image.open(path) as picture, Image.open(row["mask"]) as mask, Image.open(row["overlay"]) as overlay:
            indices = np.asarray(mask)
            assert mask.mode == "P" and mask.size == picture.size == overlay.size
            assert mask.convert("RGB").getpixel((0, 0)) in ((0, 0, 0), class_colour(1))
        assert set(np.unique(indices)) <= {0, 1}
        lesion = row["mask_classes"]["lesion"]
        assert lesion["area_pixels"] == (indices == 1).sum()
        assert lesion["area_fraction"] == pytest.approx((indices == 1).mean())
        assert set(row["class_scores"]) == {"a", "b"}
    assert (tmp_path / "sheet.png").exists() and not (tmp_path / "problems.json").exists()
    assert str(tmp_path / "predictions.json") in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.partial"))


def test_a_bad_file_is_named_and_does_not_stop_the_rest(predict, model, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    assert (
        predict([model, str(broken), str(PHOTOGRAPHS[0]), "--output", str(tmp_path / "out"), "--batch-size", "1"]) == 1
    )
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 1
    (problem,) = json.loads((tmp_path / "out/problems.json").read_text())
    assert problem["picture"] == str(broken) and "broken.jpg: not a picture" in problem["problem"]


def test_a_picture_that_cannot_be_processed_does_not_stop_its_batch(predict, model, tmp_path):
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    inputs = [str(PHOTOGRAPHS[0]), str(tmp_path / "nan.tiff"), str(PHOTOGRAPHS[1])]
    assert predict([model, *inputs, "--output", str(tmp_path / "out")]) == 1
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [row["picture"] for row in rows] == [inputs[0], inputs[2]]
    (problem,) = json.loads((tmp_path / "out/problems.json").read_text())
    assert problem["problem"].startswith(inputs[1]) and "NaN" in problem["problem"]
    assert predict([model, inputs[0], "--output", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out/problems.json").exists()


def test_a_checkpoint_without_a_mask_head_is_refused(predict, tmp_path, caplog):
    ResFormerForImageClassification(tiny_config()).save_pretrained(tmp_path / "half")
    ResFormerImageProcessor().save_pretrained(tmp_path / "half")
    assert predict([str(tmp_path / "half"), str(PHOTOGRAPHS[0]), "--output", str(tmp_path / "out")]) == 1
    assert "no weights for decoder, dilated_feature_enhancement, segmentation_head" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [("--threshold", "1.5"), ("--batch-size", "0")])
def test_values_out_of_range_are_one_line(predict, model, tmp_path, flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict([model, str(PHOTOGRAPHS[0]), "--output", str(tmp_path / "out"), *flags])
    assert flags[0] in capsys.readouterr().err


def test_an_input_that_matches_nothing_is_one_line(predict, model, tmp_path, caplog):
    assert predict([model, str(tmp_path / "none*.png"), "--output", str(tmp_path / "out")]) == 1
    assert "none*.png: no picture there" in caplog.text
    assert not (tmp_path / "out").exists()


def test_files_folders_and_patterns_are_found_once(tmp_path):
    for name in ("b.png", "a.jpg", "notes.txt", "report.pdf", "table.h5"):
        (tmp_path / name).touch()
    expected = [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert find_pictures([str(tmp_path)]) == expected
    assert find_pictures([str(tmp_path / "*.jpg"), str(tmp_path)]) == expected


def test_results_of_pictures_with_one_name_stay_apart():
    paths = [Path("x/a.png"), Path("y/a.png"), Path("y/b.png")]
    assert list(result_names(paths).values()) == ["a", "a-2", "b"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", b"old")
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_mask_pictures_store_indices_and_show_colours(tmp_path):
    mask = np.array([[0, 1], [2, 7]])
    mask_picture(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), mask)
        colours = np.asarray(picture.convert("RGB"))
    assert tuple(colours[0, 0]) == (0, 0, 0) and tuple(colours[1, 0]) == class_colour(2)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_erosion_is_pillows_minimum_filter(width):
    inside = np.random.default_rng(0).random((40, 50)) > 0.02
    filtered = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.MinFilter(2 * width + 1))
    np.testing.assert_array_equal(eroded(inside, width), np.asarray(filtered) > 0)


def test_contours_are_the_inner_border():
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    drawn = np.asarray(draw_contours(Image.new("RGB", (9, 9)), mask))
    coloured = (drawn == class_colour(1)).all(-1)
    border = mask.astype(bool)
    border[3:6, 3:6] = False
    np.testing.assert_array_equal(coloured, border)


def test_deep_pictures_are_stretched_for_display_only():
    deep = Image.fromarray(np.array([[1000, 3000], [2000, 1000]], np.uint16))
    np.testing.assert_array_equal(np.asarray(displayable(deep))[..., 0], [[0, 255], [127, 0]])


def test_sheets_hold_every_tile_below_the_legend():
    tiles = [Image.new("RGB", (10, 12), (i, 0, 0)) for i in range(1, 4)]
    sheet = arrange(tiles, legend(["background", "lesion"], 20), columns=2)
    assert sheet.size == (20, 24 + 24)
    assert [sheet.getpixel((x, y))[0] for x, y in ((5, 30), (15, 30), (5, 40))] == [1, 2, 3]
