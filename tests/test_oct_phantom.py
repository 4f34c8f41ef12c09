"""The phantom of RETOUCH: prepared as RETOUCH is, its mm3 as SimpleITK counts them and as the shapes say, the same twice."""

import csv
import json
import math
import shutil

import demo_oct
import numpy as np
import oct_phantom
import pytest
from oct_phantom import Cyst, Dome, plan_volumes
from PIL import Image
from raw_data import VENDORS, write_retouch_volume
from run_here import run_command


SimpleITK = pytest.importorskip("SimpleITK")
pytest.importorskip("datasets")

from modeling_resformer.data import load_prepared


FLUIDS = {"IRF": 1, "SRF": 2, "PED": 3}
SMALL = ["--volumes-per-vendor", "3", "--slices", "6"]


def draw(folder, *flags):
    assert oct_phantom.main(["--output", str(folder), *SMALL, *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn") / "phantom")


@pytest.fixture(scope="module")
def truth(phantom):
    with open(phantom / "truth.csv", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_it_is_prepared_as_retouch_and_recorded_as_a_phantom(phantom, truth, tmp_path):
    flags = ["--source", phantom, "--splits", phantom / "splits.csv", "--output", tmp_path / "out"]
    assert run_command("prepare_retouch", *flags) == 0
    prepared = load_prepared(tmp_path / "out")
    assert (prepared.metadata["source"], prepared.modality) == ("retouch_phantom", "oct")
    for split in ("train", "validation", "test"):
        rows = prepared.dataset[split]
        assert set(rows["vendor"]) == set(VENDORS) and len(rows) == 3 * 6
        assert all(name.startswith("PHANTOM") for name in rows["case_id"])
        assert {truth[name]["split"] for name in rows["case_id"]} == {split}
    assert {np.asarray(row["image"]).dtype.name for row in prepared.dataset["test"]} == {"uint8", "uint16"}


def test_the_truth_is_what_simpleitk_counts(phantom, truth):
    assert len(truth) == 9
    for case_id, row in truth.items():
        (path,) = phantom.glob(f"PHANTOM-*{row['vendor']}/{case_id}/reference.mhd")
        counter = SimpleITK.LabelShapeStatisticsImageFilter()
        counter.Execute(SimpleITK.ReadImage(str(path)))
        for fluid, code in FLUIDS.items():
            counted = counter.GetPhysicalSize(code) if counter.HasLabel(code) else 0.0
            assert float(row[f"{fluid}_mm3"]) == pytest.approx(counted, rel=1e-5)
            assert (float(row[f"{fluid}_analytic_mm3"]) > 0) == (counted > 0)


def test_shapes_have_the_volumes_of_their_formulas():
    """By a sum over columns of 2 micrometres, and the known volumes of a paraboloid, half an ellipsoid and a whole one."""
    places = (np.arange(600) - 299.5) * 0.002
    for power, by_hand in ((1.0, math.pi * 0.5 * 0.4 * 0.2 / 2), (0.5, math.pi * 0.5 * 0.4 * 0.2 * 2 / 3)):
        dome = Dome(0.0, 0.0, 0.5, 0.4, 0.2, power)
        summed = sum(dome.heights(places, z).sum() for z in places) * 0.002**2
        assert (dome.mm3, summed) == (pytest.approx(by_hand), pytest.approx(by_hand, rel=1e-3))
    cyst = Cyst(0.0, 0.0, 0.3, 0.2, 0.1, "INL")
    summed = sum(2 * cyst.half_heights(places, z).sum() for z in places) * 0.002**2
    assert (cyst.mm3, summed) == (pytest.approx(4 / 3 * math.pi * 0.006), pytest.approx(cyst.mm3, rel=1e-3))


def test_voxels_hold_the_volume_of_the_shapes():
    volume = plan_volumes(3, 64, "small", 0)[0]
    _, reference = volume.draw()
    for fluid, code in FLUIDS.items():
        counted = np.count_nonzero(reference == code) * math.prod(volume.grid.spacing)
        assert counted == pytest.approx(volume.eye.mm3(fluid), rel=0.02)


def test_a_seed_gives_the_same_bytes_and_another_one_others(phantom, tmp_path):
    again, other = draw(tmp_path / "again"), draw(tmp_path / "other", "--seed", "1")
    assert files_of(phantom) == files_of(again)
    ours, theirs = files_of(phantom), files_of(other)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if name.suffix == ".raw" and "oct" in name.name and ours[name] == theirs[name]]


def test_a_volume_stays_the_same_among_more():
    few, many = ({volume.case_id: volume for volume in plan_volumes(count, 6, "small", 0)} for count in (3, 5))
    assert all(many[name].eye == volume.eye for name, volume in few.items())


def test_full_size_is_that_of_the_vendors():
    found = {name: [v for v in plan_volumes(4, None, "full", 0) if v.vendor.name == name] for name in VENDORS}
    for name, (first, dtype, slices, rows, columns, (x, y, z)) in VENDORS.items():
        volumes = found[name]
        assert volumes[0].case_id == f"PHANTOM{first:03d}" and volumes[0].vendor.dtype == dtype
        assert volumes[0].grid.shape == (slices, rows, columns)
        assert volumes[0].grid.spacing == pytest.approx((z, y, x), rel=0.08 if name == "Spectralis" else 1e-6)
    assert {volume.grid.shape[1] for volume in found["Topcon"]} == {885, 650}
    spectralis = [volume.grid.spacing for volume in found["Spectralis"]]
    assert all(0.116 <= z <= 0.129 and 0.0109 <= x <= 0.0120 for z, _, x in spectralis)


def test_small_volumes_show_the_same_field(phantom):
    for full, small in zip(plan_volumes(3, None, "full", 0), plan_volumes(3, 6, "small", 0), strict=True):
        field = np.multiply(full.grid.shape, full.grid.spacing)
        np.testing.assert_allclose(np.multiply(small.grid.shape, small.grid.spacing), field, rtol=1e-4)
        (path,) = phantom.glob(f"*/{small.case_id}/oct.mhd")
        image = SimpleITK.ReadImage(str(path))
        assert image.GetSize() == small.grid.shape[::-1]
        assert image.GetSpacing() == pytest.approx(small.grid.spacing[::-1], rel=1e-5)


def test_every_vendor_has_each_fluid_and_volumes_without():
    for vendor in VENDORS:
        volumes = [volume for volume in plan_volumes(9, 6, "small", 0) if volume.vendor.name == vendor]
        for fluid in FLUIDS:
            assert {volume.eye.mm3(fluid) > 0 for volume in volumes} == {True, False}
            assert any(volume.eye.mm3(fluid) for volume in volumes if volume.split == "train")
            assert any(volume.eye.mm3(fluid) for volume in volumes if volume.split == "test")
        assert any(not volume.eye.cysts and not volume.eye.domes for volume in volumes)


def test_fluids_lie_in_their_layers_and_are_dark():
    oct_voxels, reference = plan_volumes(3, 12, "small", 0)[0].draw()
    rows = np.arange(reference.shape[1])[:, None]
    for mask in reference:
        lowest = {code: np.where(mask == code, rows, -1).max(axis=0) for code in (1, 2)}
        highest = {code: np.where(mask == code, rows, rows.max() + 1).min(axis=0) for code in (2, 3)}
        assert (lowest[1] < np.minimum(highest[2], highest[3])).all()
        assert (lowest[2] < highest[3]).all()
    bright = {code: oct_voxels[reference == code].mean() for code in FLUIDS.values()}
    retina = np.percentile(oct_voxels[reference == 0], 90)
    assert max(bright[1], bright[2]) < bright[3] < retina


def test_speckle_is_that_of_the_vendor_and_shadows_go_on_in_the_next_slice():
    spread = {}
    for volume in plan_volumes(3, None, "full", 0)[::3]:
        rng = np.random.default_rng(0)
        image, _ = oct_phantom.draw_slice(volume.eye, volume.vendor, volume.grid, 2.5, rng)
        spread[volume.vendor.name] = image[:60].std() / np.iinfo(image.dtype).max
        x, step = volume.grid.centred(2), volume.grid.spacing[0]
        here, there = (volume.eye.vessel_strength(x, z) for z in (0.0, step))
        assert np.corrcoef(here, there)[0, 1] > 0.8
    assert spread["Spectralis"] < spread["Topcon"] < spread["Cirrus"]


def test_phantoms_are_kept_apart_from_patients_and_not_passed_on(phantom, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    shutil.copytree(phantom, mixed)
    write_retouch_volume(mixed / "RETOUCH-TrainingSet-Cirrus" / "TRAIN001")
    assert run_command("prepare_retouch", "--source", mixed, "--output", tmp_path / "out") == 1
    assert "is a phantom and" in capsys.readouterr().err.splitlines()[-1]
    assert run_command("prepare_retouch", "--source", phantom, "--output", tmp_path / "out", "--parquet") == 1
    assert "leave --parquet and --push-to-hub out" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_only_a_phantom_is_replaced_and_only_if_asked(phantom, tmp_path, capsys):
    copied = tmp_path / "phantom"
    shutil.copytree(phantom, copied)
    assert oct_phantom.main(["--output", str(copied), *SMALL]) == 1
    assert "error: " in capsys.readouterr().err
    draw(copied, "--overwrite")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    assert oct_phantom.main(["--output", str(tmp_path / "mine"), *SMALL, "--overwrite"]) == 1
    assert (tmp_path / "mine" / "note.txt").read_text() == "keep"
    with pytest.raises(SystemExit):
        oct_phantom.main(["--output", str(tmp_path / "x"), "--volumes-per-vendor", "2"])


def made_up_comparison():
    """Two volumes of Cirrus and one of either other: true and predicted mm3 of IRF, SRF, PED."""
    volumes = {
        "PHANTOM001": ("Cirrus", (0.2, 0.0, 0.4), (0.1, 0.0, 0.5)),
        "PHANTOM002": ("Cirrus", (0.0, 0.1, 0.4), (0.0, 0.0, 0.3)),
        "PHANTOM025": ("Spectralis", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        "PHANTOM049": ("Topcon", (0.3, 0.0, 0.0), (0.6, 0.0, 0.0)),
    }
    truth, predicted = [], []
    for case_id, (vendor, true, found) in volumes.items():
        both = zip(FLUIDS, true, found, strict=True)
        columns = {fluid: (str(one), str(other)) for fluid, one, other in both}
        truth.append({"case_id": case_id, "vendor": vendor} | {f"{k}_mm3": v[0] for k, v in columns.items()})
        predicted.append({"case_id": case_id} | {f"volume_mm3_{k}": v[1] for k, v in columns.items()})
    return demo_oct.compare(truth, reversed(predicted))


def test_volumes_are_compared_as_by_hand(tmp_path):
    compared = made_up_comparison()
    assert [(one.case_id, one.fluid) for one in compared][:4] == [
        ("PHANTOM001", "IRF"),
        ("PHANTOM001", "SRF"),
        ("PHANTOM001", "PED"),
        ("PHANTOM002", "IRF"),
    ]
    lines = {tuple(line.split()[:2]): line.split()[2:] for line in demo_oct.volume_lines(compared)}
    # volumes, mean truth, mean prediction, mean difference without sign, and what finding nothing would be off by
    assert lines["Cirrus", "IRF"] == ["2", "0.100", "0.050", "0.050", "0.100"]
    assert lines["Cirrus", "SRF"] == ["2", "0.050", "0.000", "0.050", "0.050"]
    assert lines["Topcon", "IRF"] == ["1", "0.300", "0.600", "0.300", "0.300"]
    assert lines["Cirrus", "PED"] == ["2", "0.400", "0.400", "0.100", "0.400"]
    demo_oct.write_comparison(compared, tmp_path / "mm3.csv")
    with open(tmp_path / "mm3.csv", newline="") as file:
        assert next(csv.DictReader(file))["difference_mm3"] == "-0.1"
    demo_oct.draw_comparison(compared, tmp_path / "mm3.png")
    with Image.open(tmp_path / "mm3.png") as image:
        assert image.width > image.height > 300


@pytest.mark.slow
def test_the_whole_rehearsal_runs(tmp_path):
    pytest.importorskip("timm")
    short = ["--max_steps", "1", "--image_size", "64", "--bootstrap_samples", "0", "--use_cpu"]
    assert demo_oct.main(["--output", str(tmp_path), *SMALL, *short]) == 0
    assert json.loads((tmp_path / "model" / "results.json").read_text())["groups"].keys() == VENDORS.keys()
    with open(tmp_path / "mm3.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * 3
    assert (tmp_path / "mm3.png").is_file() and (tmp_path / "en_face.png").is_file()
