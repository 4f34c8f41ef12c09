"""RETOUCH volumes become rows bit for bit, in the vendors' exact formats; bad volumes are named."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from raw_data import VENDORS, random_volume, write_metaimage, write_retouch_volume


pytest.importorskip("SimpleITK")
pytest.importorskip("datasets")

from datasets import load_from_disk

from modeling_resformer.commands import prepare_retouch
from modeling_resformer.data import Retouch, load_prepared, retouch
from modeling_resformer.data.retouch import FULL_SLICES, PUBLISHED_ORDER, published_split
from modeling_resformer.errors import BadInputError


def folder_of(root, vendor, number):
    return root / f"RETOUCH-TrainingSet-{vendor}" / f"TRAIN{number:03d}"


def build(tmp_path, root, name="all", **options):
    builder = Retouch(config_name=name, data_dir=root, cache_dir=tmp_path / "cache", **options)
    builder.download_and_prepare(num_proc=options.pop("num_proc", None))
    return builder.as_dataset()


def run(*arguments):
    return prepare_retouch.main([str(argument) for argument in arguments])


def check_rows(rows, voxels, reference, spacing):
    assert len(rows) == len(voxels)
    for row, image, mask in zip(rows, voxels, reference, strict=True):
        stored = np.asarray(row["image"])
        assert stored.dtype == voxels.dtype
        np.testing.assert_array_equal(stored, image)
        np.testing.assert_array_equal(np.asarray(row["mask"]), mask)
        assert row["class_labels"] == [code - 1 for code in (1, 2, 3) if (mask == code).any()]
        assert row["class_labels_unknown"] == []
        assert row["original_size"] == list(image.shape)
        assert row["spacing"] == pytest.approx([spacing[1], spacing[0]])
        assert row["slice_spacing"] == pytest.approx(spacing[2])


@pytest.mark.parametrize("vendor", list(VENDORS))
def test_every_vendor_round_trips_bit_for_bit(tmp_path, vendor):
    first, dtype, _, height, width, spacing = VENDORS[vendor]
    slices = 4
    voxels, reference = write_retouch_volume(
        folder_of(tmp_path / "raw", vendor, first), (slices, height, width), dtype, spacing
    )
    dataset = build(tmp_path, tmp_path / "raw", vendor.lower())
    rows = [row for split in dataset.values() for row in split]
    check_rows(rows, voxels, reference, spacing)
    assert {row["vendor"] for row in rows} == {vendor}
    assert [row["slice_index"] for row in rows] == list(range(slices))
    assert rows[0]["image"].mode == ("I;16" if dtype == "uint16" else "L")


@pytest.mark.slow
@pytest.mark.parametrize(("vendor", "slices"), [("Cirrus", 128), ("Spectralis", 49), ("Topcon", 128), ("Topcon", 64)])
def test_full_size_volumes_round_trip(tmp_path, vendor, slices):
    first, dtype, _, height, width, spacing = VENDORS[vendor]
    voxels, reference = write_retouch_volume(
        folder_of(tmp_path / "raw", vendor, first), (slices, height, width), dtype, spacing
    )
    started = time.perf_counter()
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out", "--vendor", vendor.lower()) == 0
    assert time.perf_counter() - started < 60
    rows = [row for split in load_from_disk(tmp_path / "out").values() for row in split]
    check_rows(rows, voxels, reference, spacing)


def test_a_marked_corner_keeps_its_place(tmp_path):
    voxels = np.zeros((3, 20, 30), dtype=np.uint8)
    voxels[0, 0, 0], voxels[1, 0, -1], voxels[2, -1, 0] = 200, 210, 220
    folder = folder_of(tmp_path / "raw", "Cirrus", 1)
    write_metaimage(folder / "oct.mhd", voxels, TransformMatrix="0 0 1 1 0 0 0 -1 0")
    write_metaimage(folder / "reference.mhd", (voxels > 0).astype(np.uint8), TransformMatrix="0 0 1 1 0 0 0 -1 0")
    images = [row["image"] for split in build(tmp_path, tmp_path / "raw").values() for row in split]
    # PIL counts x, y from the top left of the image
    assert images[0].size == (30, 20)
    assert images[0].getpixel((0, 0)) == 200
    assert images[1].getpixel((29, 0)) == 210
    assert images[2].getpixel((0, 19)) == 220


@pytest.mark.parametrize(
    "layout",
    [
        "RETOUCH-TrainingSet-Cirrus/TRAIN001",
        "TrainingCirrus/RETOUCH-TrainingSet-Cirrus/TRAIN001",
        "retouch/topcon-and-others/CIRRUS/TRAIN001",
    ],
)
def test_plain_and_nested_layouts(tmp_path, layout):
    write_retouch_volume(tmp_path / "raw" / layout)
    rows = [row for split in build(tmp_path, tmp_path / "raw").values() for row in split]
    assert {(row["case_id"], row["vendor"]) for row in rows} == {("TRAIN001", "Cirrus")}


def test_the_root_itself_may_name_the_vendor(tmp_path):
    write_retouch_volume(tmp_path / "RETOUCH-TrainingSet-Spectralis" / "TRAIN025", dtype="uint16")
    dataset = build(tmp_path, tmp_path / "RETOUCH-TrainingSet-Spectralis")
    assert {row["vendor"] for split in dataset.values() for row in split} == {"Spectralis"}


def test_compressed_and_big_endian_volumes(tmp_path):
    for number, options in ((1, {"compressed": True}), (2, {"big_endian": True})):
        write_retouch_volume(folder_of(tmp_path / "raw", "Spectralis", number), dtype="uint16", seed=number, **options)
    dataset = build(tmp_path, tmp_path / "raw")
    for row in (row for split in dataset.values() for row in split):
        number = int(row["case_id"][-1])
        expected = random_volume((6, 32, 24), "uint16", number)[row["slice_index"]]
        np.testing.assert_array_equal(np.asarray(row["image"]), expected)


def test_challenge_test_volumes_have_no_labels(tmp_path):
    write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", 1))
    write_metaimage(tmp_path / "raw" / "RETOUCH-TestSet-Cirrus" / "TEST001" / "oct.mhd", random_volume((2, 8, 8)))
    dataset = build(tmp_path, tmp_path / "raw")
    assert set(dataset) == {"train", "unlabelled"}
    row = dataset["unlabelled"][0]
    assert (row["mask"], row["class_labels"], row["mask_classes"]) == (None, None, None)


def test_a_vendor_config_reads_its_vendor_only(tmp_path):
    write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", 1))
    write_retouch_volume(folder_of(tmp_path / "raw", "Topcon", 49))
    dataset = build(tmp_path, tmp_path / "raw", "topcon")
    assert {row["case_id"] for split in dataset.values() for row in split} == {"TRAIN049"}


def test_the_published_lists_give_the_sizes_of_table_1():
    slices = {vendor: dict.fromkeys(order, FULL_SLICES[vendor]) for vendor, order in PUBLISHED_ORDER.items()}
    for number in (62, 68):  # which two Topcon volumes are short is only known from the data: take drawn test volumes
        slices["Topcon"][number] = 64
    paper = {"Cirrus": (2560, 512), "Spectralis": (980, 196), "Topcon": (2176, 512)}  # 198 in the table is 4 x 49
    for vendor, sizes in paper.items():
        short = {f"TRAIN{number:03d}" for number, n in slices[vendor].items() if n < FULL_SLICES[vendor]}
        split = published_split(vendor, short, validation_volumes=0)
        counted = [
            sum(slices[vendor][int(i[5:])] for i, s in split.items() if s == name) for name in ("train", "test")
        ]
        assert tuple(counted) == sizes
        with_validation = published_split(vendor, short)
        assert {i for i, s in with_validation.items() if s == "test"} == {i for i, s in split.items() if s == "test"}
        assert sum(s == "validation" for s in with_validation.values()) == 2
        assert not short & {i for i, s in with_validation.items() if s != "train"}


def test_a_drawn_split_is_by_volume_seeded_and_given_back_by_its_manifest(tmp_path):
    for number in range(1, 11):
        write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", number), (3, 16, 12), seed=number)
    options = ("--source", tmp_path / "raw", "--test-fraction", 0.2, "--validation-fraction", 0.2, "--seed", 3)
    assert run(*options, "--output", tmp_path / "a") == 0
    assert run(*options, "--output", tmp_path / "b") == 0
    assert (
        run("--source", tmp_path / "raw", "--splits", tmp_path / "a" / "splits.csv", "--output", tmp_path / "c") == 0
    )
    cases = []
    for name in "abc":
        dataset = load_from_disk(tmp_path / name)
        cases.append({split: sorted(set(rows["case_id"])) for split, rows in dataset.items()})
        assert {split: len(rows) for split, rows in dataset.items()} == {"train": 18, "validation": 6, "test": 6}
    assert cases[0] == cases[1] == cases[2]
    assert not set(cases[0]["train"]) & set(cases[0]["test"])
    assert json.loads((tmp_path / "a/resformer.json").read_text())["split_rule"] == (
        "drawn: 0.2 of the cases to test, 0.2 to validation, by case, stratified by vendor and fluid, seed 3"
    )


def test_the_lists_own_rule_says_how_much_of_it_is_there_and_warnings_name_the_flags(tmp_path, capsys):
    for number in (1, 18):  # the list's last but three and first volume of this vendor
        write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", number), (128, 4, 4), seed=number)
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out") == 0
    rule = json.loads((tmp_path / "out/resformer.json").read_text())["split_rule"]
    assert rule.startswith("this project's published list of volumes: 4 test and 2 validation volumes a vendor")
    assert rule.endswith("of which 1 and 0 are in this source")
    printed = capsys.readouterr().out
    assert "there is no validation split; --validation-fraction draws one" in printed
    assert "no test split" not in printed


def test_two_processes_give_the_same_rows_as_one(tmp_path):
    for number in range(1, 5):
        write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", number), seed=number)
    for processes in (1, 2):
        assert (
            run("--source", tmp_path / "raw", "--output", tmp_path / f"out{processes}", "--num-proc", processes) == 0
        )
    one, two = (load_from_disk(tmp_path / f"out{processes}") for processes in (1, 2))
    for split in one:
        assert one[split].data.table.equals(two[split].data.table)


def test_storing_at_another_size_keeps_depth_and_scales_spacing(tmp_path):
    write_retouch_volume(folder_of(tmp_path / "raw", "Spectralis", 25), (2, 40, 20), "uint16", (0.01, 0.004, 0.12))
    row = build(tmp_path, tmp_path / "raw", image_size=(20, 40))["train"][1]
    assert (row["image"].mode, row["image"].size, row["mask"].size) == ("I;16", (40, 20), (40, 20))
    assert np.asarray(row["image"]).max() > 255
    assert row["original_size"] == [40, 20]
    assert row["spacing"] == pytest.approx([0.008, 0.005])


def break_reference(folder, **fields):
    write_metaimage(folder / "reference.mhd", np.zeros((6, 32, 24), dtype=np.uint8), **fields)


def write_code_seven(folder):
    reference = np.zeros((6, 32, 24), dtype=np.uint8)
    reference[3, 4, 5] = 7
    write_metaimage(folder / "reference.mhd", reference)


def write_nan_reference(folder):
    reference = np.zeros((6, 32, 24), dtype=np.float32)
    reference[3, 4, 5] = np.nan
    write_metaimage(folder / "reference.mhd", reference)


BAD_VOLUMES = [
    (lambda f: (f / "oct.raw").write_bytes(bytes(100)), "oct.mhd", "truncated"),
    (lambda f: (f / "reference.raw").write_bytes(bytes(100)), "reference.mhd", "truncated"),
    (lambda f: (f / "reference.raw").unlink(), "reference.mhd", "its data file 'reference.raw' is missing"),
    (lambda f: (f / "reference.mhd").unlink(), "", "without reference.mhd"),
    (lambda f: (f / "oct.mhd").unlink(), "", "no oct.mhd"),
    (
        lambda f: write_metaimage(f / "reference.mhd", np.zeros((6, 24, 32), np.uint8)),
        "reference.mhd",
        "reference is 32 x 24 x 6 voxels, its oct 24 x 32 x 6",
    ),
    (write_code_seven, "reference.mhd", "label codes 7, expected 0 none, 1 IRF, 2 SRF, 3 PED"),
    (write_nan_reference, "reference.mhd", "holds NaN"),
    (lambda f: break_reference(f, TransformMatrix="-1 0 0 0 1 0 0 0 1"), "reference.mhd", "TransformMatrix differs"),
    (lambda f: break_reference(f, ElementDataFile="../../secret.raw"), "reference.mhd", "points outside"),
    (lambda f: write_metaimage(f / "oct.mhd", np.zeros((6, 32, 24), np.int16)), "oct.mhd", "MET_SHORT samples"),
    (
        lambda f: write_metaimage(f / "oct.mhd", np.zeros((6, 32, 24), np.uint8), DimSize="9 9 999999999"),
        "oct.mhd",
        "claims",
    ),
]


@pytest.mark.parametrize(("damage", "file", "message"), BAD_VOLUMES)
def test_a_bad_volume_stops_with_one_line_or_is_skipped_and_recorded(tmp_path, capsys, damage, file, message):
    write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", 1))
    bad = folder_of(tmp_path / "raw", "Cirrus", 2)
    write_retouch_volume(bad)
    damage(bad)
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "result" / "out")
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {bad / file if file else bad}")
    assert message in error
    assert not (tmp_path / "result").exists()  # nothing half-written

    assert run(*arguments, "--on-error", "skip") == 0
    report = json.loads((tmp_path / "result" / "out" / "report.json").read_text())
    assert [record["case_id"] for record in report["skipped"]] == ["TRAIN002"]
    assert message in report["skipped"][0]["problem"]
    assert set(load_prepared(tmp_path / "result" / "out").dataset["train"]["case_id"]) == {"TRAIN001"}


def test_a_bad_volume_in_a_worker_process_is_named_too(tmp_path, capsys):
    for number in range(1, 5):
        write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", number))
    write_code_seven(folder_of(tmp_path / "raw", "Cirrus", 4))
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out", "--num-proc", 2) == 1
    assert "TRAIN004/reference.mhd: label codes 7" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda raw: raw.mkdir(), "holds no cases"),
        (lambda raw: write_retouch_volume(raw / "Heidelberg" / "TRAIN001"), "vendor unknown"),
        (
            lambda raw: [write_retouch_volume(raw / "Cirrus" / name) for name in ("TRAIN001", "train001")],
            "are one id",
        ),
        (
            lambda raw: [write_retouch_volume(raw / "Cirrus" / name / "TRAIN001") for name in ("a", "b")],
            "TRAIN001 comes twice",
        ),
    ],
)
def test_a_bad_folder(tmp_path, make, message):
    make(tmp_path / "raw")
    with pytest.raises(BadInputError, match=message):
        build(tmp_path, tmp_path / "raw")


@pytest.mark.slow
def test_a_killed_run_leaves_the_old_result_or_none(tmp_path):
    for number in range(1, 9):
        write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", number), (16, 256, 256), seed=number)
    output = tmp_path / "result" / "out"
    arguments = ("--source", tmp_path / "raw", "--output", output, "--overwrite")

    def kill_half_way():
        process = subprocess.Popen(
            [sys.executable, "-m", "modeling_resformer.commands.prepare_retouch", *arguments],
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not list(output.parent.glob(".out.partial-*/.work/cache/*/*/*/*.arrow")):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        for left in output.parent.glob(".out.partial-*"):
            shutil.rmtree(left)

    kill_half_way()
    assert not output.exists()
    assert run(*arguments) == 0
    before = (output / "report.json").stat().st_mtime_ns
    kill_half_way()
    assert (output / "report.json").stat().st_mtime_ns == before
    assert sum(len(split) for split in load_prepared(output).dataset.values()) == 128
    assert run(*arguments) == 0
    assert (output / "report.json").stat().st_mtime_ns != before


def test_torch_sees_all_sixteen_bits(tmp_path):
    torch = pytest.importorskip("torch")
    voxels, _ = write_retouch_volume(folder_of(tmp_path / "raw", "Spectralis", 25), dtype="uint16")
    rows = build(tmp_path, tmp_path / "raw")["train"].with_format("torch")
    image = rows[3]["image"]
    assert image.shape == (1, 32, 24)
    np.testing.assert_array_equal(image[0].to(torch.int32).numpy(), voxels[3])


def test_streaming_reads_volumes(tmp_path):
    voxels, reference = write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", 1))
    streamed = Retouch(data_dir=tmp_path / "raw", cache_dir=tmp_path / "cache").as_streaming_dataset(split="train")
    check_rows(list(streamed), voxels, reference, (0.0117, 0.00196, 0.047))


def test_the_report_shows_odd_slice_counts_and_ranges(tmp_path):
    for number, slices in ((1, 6), (2, 6), (3, 3)):
        write_retouch_volume(folder_of(tmp_path / "raw", "Cirrus", number), (slices, 16, 12), seed=number)
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out", "--validation-volumes", 0) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "volume TRAIN003 (Cirrus) has 3 slices; usual are 6" in report["warnings"]
    voxels = random_volume((6, 16, 12), seed=1)
    assert report["volumes"]["TRAIN001"]["range"] == [voxels.min(), voxels.max()]
    assert "- TRAIN003: 3, " in (tmp_path / "out" / "report.md").read_text()
    assert report["groups"]["Cirrus"]["spacing"] == [[0.00196, 0.00196], [0.0117, 0.0117]]


def test_the_report_counts_by_split_and_vendor(tmp_path, monkeypatch):
    monkeypatch.setattr(retouch, "FULL_SLICES", {"Cirrus": 6, "Topcon": 6, "Spectralis": 6})
    for vendor, number in (("Cirrus", 1), ("Cirrus", 18), ("Topcon", 50)):  # 18 is in the published test split
        write_retouch_volume(folder_of(tmp_path / "raw", vendor, number), seed=number)
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out") == 0
    splits = json.loads((tmp_path / "out" / "report.json").read_text())["splits"]
    assert {name: {v: g["rows"] for v, g in split["groups"].items()} for name, split in splits.items()} == {
        "train": {"Cirrus": 6, "Topcon": 6},
        "test": {"Cirrus": 6},
    }
    assert load_prepared(tmp_path / "out").classification_type == "multi_label"
    # the references hold IRF, SRF, PED, none, IRF in slices 1 to 5
    assert splits["test"]["groups"]["Cirrus"]["class_counts"] == {"IRF": 2, "SRF": 1, "PED": 1}
