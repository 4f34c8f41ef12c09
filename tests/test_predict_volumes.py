"""scripts/predict.py on volumes and prepared datasets, with a network that finds what is bright: results are known."""

import json
import math
import re
import shutil
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from prediction_tables import rows_of
from prepared_data import prepared_dataset
from raw_data import write_metaimage
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor, ResFormerMultiTaskOutput
from modeling_resformer.data.columns import dataset_features
from modeling_resformer.prediction.cases import find_cases
from modeling_resformer.prediction.predictor import Predictor
from modeling_resformer.volumes import nifti


SIZE = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    ResFormerForMultiTask(
        tiny_config(id2label={0: "background", 1: "fluid"}, classification_labels=["fluid"])
    ).save_pretrained(folder)
    ResFormerImageProcessor(size={"height": SIZE, "width": SIZE}, do_normalize=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def bright_is_fluid(monkeypatch):
    """The mask is what is brighter than half; the score says whether there is any."""

    def forward(self, pixel_values, **options):
        brightness = pixel_values[:, :1] - 0.5
        mask = torch.cat([torch.zeros_like(brightness), 100 * brightness], dim=1)
        return ResFormerMultiTaskOutput(
            segmentation_logits=mask, classification_logits=100 * brightness.amax(dim=(2, 3))
        )

    monkeypatch.setattr(ResFormerForMultiTask, "forward", forward)


def ellipsoid(shape: tuple[int, int, int], semi_axes: tuple[float, float, float]) -> np.ndarray:
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    centred = [(axis - (n - 1) / 2) / semi for axis, n, semi in zip(grid, shape, semi_axes, strict=True)]
    return sum(axis**2 for axis in centred) <= 1


@pytest.mark.parametrize("dtype, low, high", [(np.uint8, 40, 200), (np.uint16, 9000, 50000)])
def test_a_volume_becomes_masks_in_its_place_and_measurements_in_mm(predict, model, tmp_path, dtype, low, high):
    inside = ellipsoid((32, SIZE, SIZE), (12.3, 20.7, 17.9))
    path = tmp_path / "TRAIN001/oct.mhd"
    path.parent.mkdir()
    spacing, origin = (0.0117, 0.00196, 0.047), (1.0, -2.0, 3.0)
    image = SimpleITK.GetImageFromArray(np.where(inside, high, low).astype(dtype))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    SimpleITK.WriteImage(image, str(path))
    assert predict([model, str(path), "--output", str(tmp_path / "out"), "--batch-size", "5"]) == 0

    (volume,) = rows_of(tmp_path / "out", "volumes")
    mask = SimpleITK.ReadImage(str(tmp_path / "out" / volume["mask"]))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask), inside)
    assert mask.GetSpacing() == pytest.approx(spacing) and mask.GetOrigin() == pytest.approx(origin)
    assert mask.GetDirection() == image.GetDirection()

    exact = 4 / 3 * math.pi * 12.3 * 20.7 * 17.9 * math.prod(spacing)
    assert float(volume["volume_mm3_fluid"]) == pytest.approx(exact, rel=0.01)
    assert int(volume["voxels_fluid"]) == inside.sum() and volume["lesion_count_fluid"] == "1"
    areas = inside.sum(axis=(1, 2))
    assert int(volume["slices_affected_fluid"]) == int(volume["slices_labelled_fluid"]) == np.count_nonzero(areas)
    assert int(volume["largest_slice_fluid"]) == areas.argmax() and volume["spacing_slice_mm"] == "0.047"
    rows = rows_of(tmp_path / "out", "predictions")
    assert [int(row["area_pixels_fluid"]) for row in rows] == areas.tolist()
    assert [int(row["slice_index"]) for row in rows] == list(range(32))
    area_mm2 = float(rows[16]["area_mm2_fluid"])
    assert area_mm2 == pytest.approx(areas[16] * spacing[0] * spacing[1], rel=1e-6)
    for kind in ("en_face", "sheet"):
        with Image.open(tmp_path / "out" / volume[kind]) as image:
            assert np.asarray(image.convert("L")).std() > 0


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 6])
def test_a_longer_volume_needs_no_more_memory_but_for_its_voxels_and_its_mask(
    predict, model, tmp_path, monkeypatch, classes
):
    """Logits are counted, the bytes of arrays are measured; nothing of either lasts for the whole volume."""

    def forward(self, pixel_values, **options):
        logits = pixel_values[:, :1].expand(-1, classes, -1, -1).clone()
        return ResFormerMultiTaskOutput(
            segmentation_logits=logits, classification_logits=pixel_values.amax(dim=(2, 3))[:, :1]
        )

    settings = tiny_config(id2label=dict(enumerate("abcdef"[:classes])), classification_labels=["fluid"])
    ResFormerForMultiTask(settings).save_pretrained(tmp_path / "model")
    shutil.copy(Path(model) / "preprocessor_config.json", tmp_path / "model")
    monkeypatch.setattr(ResFormerForMultiTask, "forward", forward)
    alive, most, forward_batch = [], [], Predictor.forward

    def counted(self, batch):
        answers = forward_batch(self, batch)
        alive.extend(weakref.ref(one["segmentation_logits"]) for one in answers)
        alive[:] = [one for one in alive if one() is not None]
        most.append(len(alive))
        return answers

    monkeypatch.setattr(Predictor, "forward", counted)
    monkeypatch.setattr(nifti, "PIECE_BYTES", 1 << 16)  # in which a written file is read again
    peaks, counts = [], []
    for slices in (10, 10, 50):  # the first warms caches up
        path = tmp_path / f"{len(peaks)}.tif"
        voxels = np.random.default_rng(0).integers(0, 256, (slices, 256, 256), np.uint8)
        pages = [Image.fromarray(slice_) for slice_ in voxels]
        pages[0].save(path, save_all=True, append_images=pages[1:])
        arguments = ["--batch-size", "2", "--no-overlays", "--cpu-threads", "1"]
        tracemalloc.start()
        assert predict([str(tmp_path / "model"), str(path), "--output", str(path.with_suffix("")), *arguments]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1] - 2 * voxels.nbytes)
        tracemalloc.stop()
        counts.append(max(most))
        most.clear()
    assert counts[2] == counts[1] <= 6
    # An array of 8 bits for each of the 40 slices more, or for each class, would show.
    assert peaks[2] - peaks[1] < 40 * 256 * 256 / 2


def test_each_volume_is_one_line_with_what_was_found(predict, model, tmp_path, capsys):
    voxels = np.zeros((5, 20, 30), np.uint8)
    voxels[1:4, 5:15, 10:20] = 200
    for number in range(11):
        (tmp_path / f"TRAIN{number:03d}").mkdir()
        write_metaimage(tmp_path / f"TRAIN{number:03d}/oct.mhd", voxels, spacing=(0.5, 0.25, 2.0))
    pages = [Image.fromarray(slice_) for slice_ in voxels]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    inputs = [str(tmp_path / "pages.tif"), str(tmp_path / "TRAIN*/oct.mhd")]
    assert predict([model, *inputs, "--output", str(tmp_path / "out"), "--batch-size", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"overlays/pages.png: fluid in 3 of 5 slices, \d+ voxels", lines[0])
    volume = rows_of(tmp_path / "out", "volumes")[1]
    mm3 = int(volume["voxels_fluid"]) * 0.25
    assert lines[1] == f"overlays/TRAIN000.png: fluid in 3 of 5 slices, {mm3:.3g} mm3"
    assert lines[10] == "... and 2 more in volumes.csv" and lines[11].endswith("predictions.csv")
    assert not (tmp_path / "out/sheet.png").exists()


def test_without_spacing_there_are_no_mm(predict, model, tmp_path):
    pages = [Image.fromarray(slice_) for slice_ in np.full((3, 20, 30), 200, np.uint8)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert predict([model, str(tmp_path), "--output", str(tmp_path / "out"), "--no-overlays"]) == 0
    (volume,) = rows_of(tmp_path / "out", "volumes")
    assert volume["voxels_fluid"] == "1800" and volume["mask"] == "masks/pages.nii.gz"
    for table, row in (
        ("volumes", volume),
        *(("predictions", row) for row in rows_of(tmp_path / "out", "predictions")),
    ):
        assert {value for name, value in row.items() if "mm" in name} == {""}, table
    assert SimpleITK.ReadImage(str(tmp_path / "out" / volume["mask"])).GetSize() == (30, 20, 3)


def test_volumes_and_images_go_together_and_a_bad_volume_stops_nothing(predict, model, tmp_path):
    for number in (1, 2):
        (tmp_path / f"scan{number}").mkdir()
        write_metaimage(tmp_path / f"scan{number}/oct.mhd", np.full((2, 20, 30), 100 * number, np.uint8))
    (tmp_path / "scan1/oct.raw").write_bytes(b"short")
    Image.new("L", (30, 20), 255).save(tmp_path / "photo.png")
    inputs = [str(tmp_path / "scan*/oct.mhd"), str(tmp_path / "photo.png")]
    assert predict([model, *inputs, "--output", str(tmp_path / "out")]) == 1
    rows = rows_of(tmp_path / "out", "predictions")
    assert [(row["case_id"], row["area_pixels_fluid"]) for row in rows] == [("scan2", "600")] * 2 + [("photo", "600")]
    (problem,) = json.loads((tmp_path / "out/problems.json").read_text())
    assert problem["source"].endswith("scan1/oct.mhd") and "oct.raw" in problem["problem"]


def test_a_reference_is_no_scan_and_oct_is_named_after_its_folder(tmp_path, caplog):
    for vendor, name in (("Cirrus", "TRAIN051"), ("Topcon", "TRAIN051"), ("Topcon", "TRAIN052")):
        folder = tmp_path / vendor / name
        folder.mkdir(parents=True)
        for stem in ("oct", "reference"):
            write_metaimage(folder / f"{stem}.mhd", np.zeros((2, 20, 30), np.uint8))
    first = tmp_path / "Cirrus/TRAIN051"
    assert [(case.source, case.name) for case in find_cases([str(first)])] == [(str(first / "oct.mhd"), "TRAIN051")]
    (line,) = caplog.records
    assert f"{first / 'reference.mhd'}: not predicted" in line.getMessage()
    caplog.clear()
    cases = find_cases([str(tmp_path / "*/*/*.mhd")])
    assert [case.name for case in cases] == ["Cirrus-TRAIN051", "Topcon-TRAIN051", "TRAIN052"]
    (line,) = caplog.records
    assert "and 2 more: not predicted" in line.getMessage()
    caplog.clear()
    named = find_cases([str(first), str(first / "reference.mhd")])
    assert [case.name for case in named] == ["TRAIN051", "reference"] and not caplog.records
    known = {str(first / "oct.mhd"): "oct"}  # of an output folder that an earlier version began
    assert [case.name for case in find_cases([str(first)], known)] == ["oct"]
    assert [case.name for case in find_cases([str(tmp_path / "*/TRAIN052/reference.mhd")])] == ["reference"]
    (first / "oct.mhd").rename(first / "scan.mhd")
    assert [case.name for case in find_cases([str(first)])] == ["reference", "scan"]


def test_slices_are_not_turned_upside_down(predict, model, tmp_path, caplog):
    write_metaimage(tmp_path / "oct.mhd", np.zeros((2, 20, 30), np.uint8))
    arguments = [model, str(tmp_path / "oct.mhd"), "--output", str(tmp_path / "out")]
    assert predict([*arguments, "--tta", "both"]) == 1
    assert "oct.mhd belongs to a volume" in caplog.text and "--tta horizontal" in caplog.text
    assert not (tmp_path / "out").exists()
    assert predict([*arguments, "--tta", "horizontal"]) == 0


def test_rows_of_a_prepared_dataset_keep_their_ids_spacing_and_depth(predict, model, tmp_path):
    features = dataset_features(["background", "fluid"], ["fluid"])
    blank = dict.fromkeys(features)
    bright = np.zeros((20, 30), np.uint16)
    bright[5:9, 10:20] = 40000
    rows = [
        {**blank, "image": Image.fromarray(bright), "case_id": case_id, "slice_index": index, "spacing": spacing}
        for case_id, index, spacing in (("a/1", 0, [0.5, 0.25]), ("a/1", 1, None), ("b", 0, None))
    ]
    DatasetDict({"test": Dataset.from_list(rows, features=features)}).save_to_disk(str(tmp_path / "dataset"))
    arguments = [model, "--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "out")]
    assert predict(arguments) == 0
    table = rows_of(tmp_path / "out", "predictions")
    assert [(row["case_id"], row["slice_index"]) for row in table] == [("a/1", "0"), ("a/1", "1"), ("b", "0")]
    assert [row["mask"] for row in table] == ["masks/a_1-000.png", "masks/a_1-001.png", "masks/b-000.png"]
    mask = np.asarray(Image.open(tmp_path / "out" / table[0]["mask"]))
    area = int(table[0]["area_pixels_fluid"])
    assert area == mask.sum() and 30 < area < 50
    assert float(table[0]["area_mm2_fluid"]) == pytest.approx(area * 0.125)
    assert table[1]["area_pixels_fluid"] == str(area) and table[1]["area_mm2_fluid"] == ""
    assert predict(arguments) == 0 and rows_of(tmp_path / "out", "predictions") == table


def test_a_dataset_without_that_part_is_one_line(predict, model, tmp_path, caplog):
    prepared_dataset(train=1, validation=1, test=1).save_to_disk(str(tmp_path / "dataset"))
    arguments = [model, "--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "out")]
    assert predict([*arguments, "--split", "none"]) == 1
    assert "--split none" in caplog.text and "it has train, validation, test" in caplog.text
    with pytest.raises(SystemExit, match="2"):
        predict([*arguments, str(tmp_path / "image.png")])
