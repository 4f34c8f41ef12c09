"""scripts/predict.py on real photographs: what it writes, and what it does with what it cannot read."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image, ImageFilter
from prediction_tables import rows_of
from scipy import ndimage
from small_model import tiny_config
from transformers.utils.logging import enable_progress_bar

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessor,
)
from modeling_resformer.drawing import (
    arrange,
    class_colour,
    displayable,
    draw_contours,
    eroded,
    legend,
    with_lines_below,
)
from modeling_resformer.errors import OutputError
from modeling_resformer.prediction import case_loop, job, result_files
from modeling_resformer.prediction.cases import find_cases
from modeling_resformer.prediction.predictor import Predictor
from modeling_resformer.prediction.result_files import mask_image, write_result
from modeling_resformer.prediction.result_tables import said_of


ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = sorted((ROOT / "examples/isic2017_sample/ISIC-2017_Training_Data").glob("*.jpg"))[:3]


def test_the_rate_from_file_to_file_stands_beside_the_networks_own(predict, model, tmp_path, capsys, monkeypatch):
    plain = Predictor.forward

    def slow(self, batch):
        time.sleep(0.5 * len(batch))
        return plain(self, batch)

    monkeypatch.setattr(Predictor, "forward", slow)
    assert predict([model, *map(str, PHOTOGRAPHS), "--output", str(tmp_path / "out"), "--no-overlays"]) == 0
    said = re.search(
        r"([\d.]+) a second from file to file and ([\d.]+) a second in the network", capsys.readouterr().out
    )
    whole, alone = map(float, said.groups())
    assert whole <= alone <= 2  # images a second, of which each takes half a second and more


def test_masks_overlays_and_scores_are_written(predict, model, tmp_path, capsys):
    output = tmp_path / "out"
    assert predict([model, *map(str, PHOTOGRAPHS), "--output", str(output), "--batch-size", "2"]) == 0
    rows = rows_of(output)
    assert [row["source"] for row in rows] == [str(path) for path in PHOTOGRAPHS]
    for row, path in zip(rows, PHOTOGRAPHS, strict=True):
        with (
            Image.open(path) as image,
            Image.open(output / row["mask"]) as mask,
            Image.open(output / row["overlay"]) as overlay,
        ):
            indices = np.asarray(mask)
            assert mask.mode == "P" and mask.size == image.size
            # Below the image, which nothing covers, a strip says what was said of it.
            assert overlay.width == image.width and overlay.height > image.height
            inside = np.asarray(overlay)[: image.height][indices == 0]
            np.testing.assert_array_equal(inside, np.asarray(image.convert("RGB"))[indices == 0])
            assert (int(row["width"]), int(row["height"])) == image.size
            assert mask.convert("RGB").getpixel((0, 0)) in ((0, 0, 0), class_colour(1))
        assert set(np.unique(indices)) <= {0, 1}
        assert int(row["area_pixels_lesion"]) == (indices == 1).sum()
        assert float(row["area_share_lesion"]) == pytest.approx((indices == 1).mean(), rel=1e-6)
        assert int(row["lesion_count_lesion"]) == ndimage.label(indices == 1, np.ones((3, 3)))[1]
        assert row["area_mm2_lesion"] == row["longest_diameter_mm_lesion"] == row["spacing_row_mm"] == ""
        for name in "ab":
            assert 0 < float(row[f"score_{name}"]) < 1
            assert row[f"label_{name}"] == str(float(row[f"score_{name}"]) >= float(row[f"threshold_{name}"]))
    assert (output / "sheet.png").exists() and not (output / "problems.json").exists()
    assert str(output / "predictions.csv") in capsys.readouterr().out
    assert not list(output.rglob(".*"))


def test_every_class_at_or_above_its_threshold_is_named_and_where_none_is_the_highest():
    classes = ("melanoma", "keratosis", "nevus")
    scores = {"score_melanoma": 0.11, "score_keratosis": 0.3, "score_nevus": 0.7}
    scores |= {f"threshold_{name}": 0.9 for name in classes}
    flags = {"label_melanoma": True, "label_keratosis": False, "label_nevus": True}
    assert said_of(scores | flags, classes) == ["flagged: nevus 0.70", "flagged: melanoma 0.11"]
    assert said_of(scores | dict.fromkeys(flags, False), classes) == ["none flagged", "highest: nevus 0.70"]
    assert said_of({}, ()) == []


@pytest.mark.parametrize(
    ("score", "threshold", "figure"),
    [(0.4953, 0.5, "0.495"), (0.4949, 0.5, "0.49"), (0.49996, 0.5, "0.49996"), (0.2512, 0.2513, "0.25")],
)
def test_a_score_below_its_threshold_never_reads_as_at_or_above_it(score, threshold, figure):
    row = {"score_malignant": score, "label_malignant": False, "threshold_malignant": threshold}
    assert said_of(row, ["malignant"]) == ["none flagged", f"highest: malignant {figure}"]


def test_overlay_and_sheet_carry_the_labels_of_the_table(predict, model, tmp_path, monkeypatch):
    """A threshold of 0 flags both classes, though one of them only has the higher score; the sheet counts what it shows."""
    tiles, titles, overlays = [], [], []
    drawn = case_loop.overlay_image
    monkeypatch.setattr(case_loop, "overlay_image", lambda *given: overlays.append(given[2]) or drawn(*given))
    tile, headed = result_files.captioned, result_files.headed_legend
    monkeypatch.setattr(result_files, "captioned", lambda *given: tiles.append(given[1].split("\n")) or tile(*given))
    monkeypatch.setattr(result_files, "headed_legend", lambda *given: titles.append(given[2]) or headed(*given))
    monkeypatch.setattr(job, "SHEET_IMAGES", 2)
    for threshold, flagged in (("0", True), ("1", False)):
        output = tmp_path / threshold
        flags = ["--output", str(output), "--threshold", threshold, "--cpu-threads", "1"]
        assert predict([model, *map(str, PHOTOGRAPHS), *flags]) == 0
        scores = [{name: float(row[f"score_{name}"]) for name in "ab"} for row in rows_of(output)]
        for of_one, overlay in zip(scores, overlays, strict=True):
            highest = max(of_one, key=of_one.get)
            none = ["none flagged", f"highest: {highest} {of_one[highest]:.2f}"]
            every = [f"flagged: {name} {of_one[name]:.2f}" for name in sorted(of_one, key=lambda name: -of_one[name])]
            assert overlay == (every if flagged else none)
        assert tiles == [[path.stem, *lines] for path, lines in zip(PHOTOGRAPHS[:2], overlays, strict=False)]
        assert titles == ["the first 2 of 3 images"]
        for kept in (tiles, titles, overlays):
            kept.clear()


def test_parquet_says_what_csv_says_with_types(predict, model, tmp_path):
    assert predict([model, str(PHOTOGRAPHS[0]), "--output", str(tmp_path / "out"), "--no-overlays"]) == 0
    (row,) = pyarrow.parquet.read_table(tmp_path / "out/predictions.parquet").to_pylist()
    (text,) = rows_of(tmp_path / "out")
    assert {name: "" if value is None else str(value) for name, value in row.items()} == text
    kinds = {"label_a": bool, "score_a": float, "area_pixels_lesion": int, "mask": str, "overlay": type(None)}
    assert {name: type(row[name]) for name in kinds} == kinds
    assert not (tmp_path / "out/overlays").exists() and not (tmp_path / "out/sheet.png").exists()


def test_what_is_printed_says_where_the_rest_stands_and_a_message_has_its_own_line(predict, model, tmp_path, capfd):
    enable_progress_bar()
    with Image.open(PHOTOGRAPHS[0]) as image:
        small = image.resize((24, 24))
    for number in range(12):
        small.save(tmp_path / f"{number:02d}.png")
    (tmp_path / "99.png").write_bytes(b"nothing")
    assert predict([model, str(tmp_path), "--output", str(tmp_path / "out"), "--batch-size", "6"]) == 1
    shown = capfd.readouterr()
    lines = shown.out.splitlines()
    assert lines[9].startswith("overlays/09.png: a 0.") and lines[10] == "... and 2 more in predictions.csv"
    assert "Loading weights" not in shown.err
    assert any(line.startswith("ERROR: ") and "99.png" in line for line in shown.err.split("\n"))


def test_a_bad_file_is_named_and_does_not_stop_the_rest(predict, model, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    inputs = [str(broken), str(PHOTOGRAPHS[0])]
    assert predict([model, *inputs, "--output", str(tmp_path / "out"), "--batch-size", "1"]) == 1
    assert len(rows_of(tmp_path / "out")) == 1
    (problem,) = json.loads((tmp_path / "out/problems.json").read_text())
    assert problem["source"] == str(broken) and "broken.jpg: not an image" in problem["problem"]


def test_a_image_that_cannot_be_processed_does_not_stop_its_batch(predict, model, tmp_path):
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    inputs = [str(PHOTOGRAPHS[0]), str(tmp_path / "nan.tiff"), str(PHOTOGRAPHS[1])]
    assert predict([model, *inputs, "--output", str(tmp_path / "out")]) == 1
    assert [row["source"] for row in rows_of(tmp_path / "out")] == [inputs[0], inputs[2]]
    (problem,) = json.loads((tmp_path / "out/problems.json").read_text())
    assert problem["problem"].startswith(inputs[1]) and "NaN" in problem["problem"]
    assert predict([model, inputs[0], "--output", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out/problems.json").exists()


@pytest.mark.parametrize(
    "model_class, there, absent",
    [
        (ResFormerForImageClassification, "score_IRF", "area_pixels_IRF"),
        (ResFormerForSemanticSegmentation, "area_pixels_IRF", "score_IRF"),
    ],
)
def test_a_checkpoint_with_one_head_gives_its_half(predict, tmp_path, model_class, there, absent):
    model_class(tiny_config()).save_pretrained(tmp_path / "half")
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "half")
    assert predict([str(tmp_path / "half"), str(PHOTOGRAPHS[0]), "--output", str(tmp_path / "out")]) == 0
    (row,) = rows_of(tmp_path / "out")
    assert there in row and absent not in row
    assert (tmp_path / "out/masks").exists() == (there == "area_pixels_IRF")


def test_a_checkpoint_that_lacks_weights_is_refused(predict, tmp_path, caplog):
    ResFormerForImageClassification(tiny_config()).save_pretrained(tmp_path / "half")
    ResFormerImageProcessor().save_pretrained(tmp_path / "half")
    config = json.loads((tmp_path / "half/config.json").read_text())
    (tmp_path / "half/config.json").write_text(json.dumps({**config, "architectures": ["ResFormerForMultiTask"]}))
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
    assert "none*.png: no image and no volume there" in caplog.text
    assert not (tmp_path / "out").exists()


def test_files_folders_and_patterns_are_found_once(tmp_path):
    for name in ("b.png", "a.jpg", "notes.txt", "report.pdf", "table.h5"):
        (tmp_path / name).touch()
    expected = [str(tmp_path / "a.jpg"), str(tmp_path / "b.png")]
    assert [case.source for case in find_cases([str(tmp_path)])] == expected
    assert [case.source for case in find_cases([str(tmp_path / "*.jpg"), str(tmp_path)])] == expected


def test_results_of_images_with_one_name_stay_apart(tmp_path):
    for name in ("x/a.png", "y/A.png", "y/b.png", "z/x/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folders = [str(tmp_path / name) for name in ("x", "y", "z/x")]
    cases = find_cases(folders)
    assert [case.name for case in cases] == ["x-a", "y-A", "b", "x-a-2"]
    known = {cases[3].source: "x-a-2", "elsewhere/b.png": "b"}
    assert [case.name for case in find_cases(folders, known)] == ["x-a", "y-A", "b-2", "x-a-2"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_result(tmp_path / "file", b"old")
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OutputError, match="file: cannot be written, disk full"):
        write_result(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_mask_images_store_indices_and_show_colours(tmp_path):
    mask = np.array([[0, 1], [2, 7]])
    mask_image(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mask)
        colours = np.asarray(image.convert("RGB"))
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


def test_deep_images_are_stretched_for_display_only():
    deep = Image.fromarray(np.array([[1000, 3000], [2000, 1000]], np.uint16))
    np.testing.assert_array_equal(np.asarray(displayable(deep))[..., 0], [[0, 255], [127, 0]])


def test_sheets_hold_every_tile_below_the_legend():
    tiles = [Image.new("RGB", (10, 12), (i, 0, 0)) for i in range(1, 4)]
    sheet = arrange(tiles, legend(["background", "lesion"], 20), columns=2)
    assert sheet.size == (20, 24 + 24)
    assert [sheet.getpixel((x, y))[0] for x, y in ((5, 30), (15, 30), (5, 40))] == [1, 2, 3]


@pytest.mark.parametrize("width", [130, 400])
def test_lines_below_a_image_leave_it_whole_and_fit_its_width(width):
    image = Image.new("RGB", (width, 40), (9, 8, 7))
    lines = ["flagged: seborrheic_keratosis 0.17", "flagged: melanoma 0.11"]
    taller = np.asarray(with_lines_below(image, lines))
    np.testing.assert_array_equal(taller[:40], np.asarray(image))
    strip = taller[40:]
    assert (strip < 200).any() and (strip[:, -1] == 255).all()
    assert len(strip) > len(np.asarray(with_lines_below(image, lines[:1]))[40:]) >= 13


def test_a_device_that_is_not_there_is_one_line(predict, model, tmp_path, caplog):
    assert predict([model, str(PHOTOGRAPHS[0]), "--output", str(tmp_path / "out"), "--device", "warp"]) == 1
    (message,) = caplog.messages
    assert message.startswith("--device warp: ") and "\n" not in message
    assert not (tmp_path / "out").exists()
