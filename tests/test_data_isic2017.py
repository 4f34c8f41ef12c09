"""ISIC 2017 in every form it is found in becomes the same rows; what does not fit is named."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import write_csv, write_isic, write_mask, write_photograph


pytest.importorskip("datasets")

import datasets

from modeling_resformer.commands import prepare_isic2017
from modeling_resformer.data import Isic2017, balanced_class_weights, load_prepared
from modeling_resformer.data.class_weights import balanced
from modeling_resformer.errors import BadInputError


ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "isic2017_sample"
LABELS = ["melanoma", "seborrheic_keratosis", "nevus"]


def run(*arguments):
    return prepare_isic2017.main([str(argument) for argument in arguments])


def build(tmp_path, root, **options):
    builder = Isic2017(data_dir=root, cache_dir=tmp_path / "cache", **options)
    builder.download_and_prepare()
    return builder.as_dataset()


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    output = tmp_path_factory.mktemp("sample") / "out"
    assert run("--source", SAMPLE, "--output", output, "--splits", SAMPLE / "split.csv", "--parquet") == 0
    return output


def test_rows_of_the_sample_equal_its_files(sample):
    prepared = load_prepared(sample)
    assert {name: len(split) for name, split in prepared.dataset.items()} == {"train": 40, "validation": 6, "test": 14}
    assert (prepared.mask_classes, prepared.class_labels) == (["background", "lesion"], LABELS)
    rows = prepared.dataset["test"].cast_column("image", datasets.Image(decode=False))
    with open(SAMPLE / "ISIC-2017_Training_Part3_GroundTruth.csv") as file:
        truth = {line.split(",")[0]: line.strip().split(",")[1:] for line in file}
    for row in rows:
        name = row["case_id"]
        assert row["image"]["bytes"] == (SAMPLE / "ISIC-2017_Training_Data" / f"{name}.jpg").read_bytes()
        mask = np.asarray(Image.open(SAMPLE / "ISIC-2017_Training_Part1_GroundTruth" / f"{name}_segmentation.png"))
        np.testing.assert_array_equal(np.asarray(row["mask"]), mask // 255)
        flags = tuple(float(flag) for flag in truth[name])
        assert [LABELS[i] for i in row["class_labels"]] == [
            {(1, 0): LABELS[0], (0, 1): LABELS[1], (0, 0): LABELS[2]}[flags]
        ]
        assert (row["slice_index"], row["source"], row["spacing"]) == (0, "isic2017", None)
        assert row["original_size"] == [256, 256]


def test_metadata_describes_the_dataset(sample):
    metadata = json.loads((sample / "resformer.json").read_text())
    assert metadata["mask_classes"] == ["background", "lesion"]
    assert metadata["class_labels"] == LABELS
    assert metadata["mask_resolution"] == "native"
    assert metadata["labels_exclusive"] is True and load_prepared(sample).classification_type == "exclusive"
    assert "training takes the classes to exclude each other" in (sample / "report.md").read_text()
    counts = [sum(split[label] for split in metadata["class_counts"].values()) for label in LABELS]
    assert counts == [20, 16, 24]
    report = (sample / "report.md").read_text()
    assert "| train | 40 | 40 | 13 (32.5%) | 11 (27.5%) | 16 (40.0%)" in report
    with Image.open(sample / "contact_sheet.png") as sheet:
        assert sheet.width > 500


def test_every_reader_of_datasets_takes_it(sample):
    torch = pytest.importorskip("torch")
    arrow = datasets.load_from_disk(sample)["test"]
    files = {"test": str(sample / "parquet" / "data" / "test-*.parquet")}
    parquet = datasets.load_dataset("parquet", data_files=files, split="test")
    streamed = list(datasets.load_dataset("parquet", data_files=files, split="test", streaming=True))
    assert parquet.features == arrow.features
    for a, b, c in zip(arrow, parquet, streamed, strict=True):
        for column in ("image", "mask"):
            assert np.array_equal(np.asarray(a[column]), np.asarray(b[column]))
            assert np.array_equal(np.asarray(a[column]), np.asarray(c[column]))
        assert {k: v for k, v in a.items() if k not in ("image", "mask")} == {
            k: v for k, v in c.items() if k not in ("image", "mask")
        }
    tensors = arrow.with_format("torch")
    assert tensors[0]["image"].shape == (3, 256, 256)
    assert tensors[0]["class_labels"].dtype == torch.int64
    loader = torch.utils.data.DataLoader(arrow, batch_size=7, num_workers=2, collate_fn=list)
    assert [row["case_id"] for batch in loader for row in batch] == arrow["case_id"]


def test_parquet_alone_is_a_prepared_dataset(sample):
    prepared = load_prepared(sample / "parquet")
    assert prepared.mask_classes == ["background", "lesion"]
    assert prepared.class_labels == LABELS
    assert len(prepared.dataset["train"]) == 40


def test_builders_stream(tmp_path):
    write_isic(tmp_path / "raw")
    rows = list(Isic2017(data_dir=tmp_path / "raw", cache_dir=tmp_path / "cache").as_streaming_dataset(split="train"))
    assert [row["class_labels"] for row in rows] == [[0], [1], [2]]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("style", ["{}.0", "{}"])
@pytest.mark.parametrize("ending", ["_segmentation", "_Segmentation"])
def test_every_spelling_of_the_official_files(tmp_path, newline, style, ending):
    for part, first in (("Training", 0), ("Validation", 10), ("Test_v2", 20)):
        write_isic(tmp_path / "raw" / "deeper", part, first=first, newline=newline, style=style, ending=ending)
    dataset = build(tmp_path, tmp_path / "raw")
    assert {name: len(split) for name, split in dataset.items()} == {"train": 3, "validation": 3, "test": 3}
    for split in dataset.values():
        assert [row["class_labels"] for row in split] == [[0], [1], [2]]
        assert not any("superpixels" in name for name in split["file_name"])
    assert dataset["test"]["case_id"] == ["ISIC_0000020", "ISIC_0000021", "ISIC_0000022"]


def test_age_and_sex_where_they_are_known(tmp_path):
    names = write_isic(tmp_path / "raw")
    rows = [["image_id", "age_approximate", "sex"], [names[0], "55", "female"], [names[1], "unknown", "unknown"]]
    write_csv(tmp_path / "raw" / "ISIC-2017_Training_Data" / "ISIC-2017_Training_Data_metadata.csv", rows, "\r\n")
    rows = build(tmp_path, tmp_path / "raw")["train"]
    assert list(zip(rows["age"], rows["sex"], strict=True)) == [(55, "female"), (None, None), (None, None)]


def test_image_size_stores_smaller_images_and_keeps_the_original_size(tmp_path):
    write_isic(tmp_path / "raw")
    row = build(tmp_path, tmp_path / "raw", image_size=(15, 20))["train"][0]
    assert (row["image"].size, row["mask"].size, row["original_size"]) == ((20, 15), (20, 15), [30, 40])
    source = Image.open(tmp_path / "raw" / "ISIC-2017_Training_Data" / "ISIC_0000000.jpg")
    expected = source.resize((20, 15), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(expected))
    mask = Image.open(tmp_path / "raw" / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_0000000_segmentation.png")
    covered = np.asarray(mask, dtype=float).reshape(15, 2, 20, 2).mean((1, 3)) / 255  # the written-out box filter
    np.testing.assert_array_equal(np.asarray(row["mask"])[covered != 0.5], (covered > 0.5)[covered != 0.5])


def test_uncompressed_images_hold_the_same_pixels(tmp_path):
    write_isic(tmp_path / "raw")
    small, fast = (
        build(tmp_path / str(option), tmp_path / "raw", image_size=(15, 20), uncompressed=option)["train"][0]
        for option in (False, True)
    )
    assert (small["image"].format, fast["image"].format, fast["mask"].format) == ("PNG", "BMP", "PNG")
    np.testing.assert_array_equal(np.asarray(fast["image"]), np.asarray(small["image"]))
    np.testing.assert_array_equal(np.asarray(fast["mask"]), np.asarray(small["mask"]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_and_its_raw_mask_stay_together(tmp_path, orientation):
    names = write_isic(tmp_path / "raw", diagnoses=("00",))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "raw" / "ISIC-2017_Training_Data" / f"{names[0]}.jpg"
    # the lesion is bright in the image exactly where the mask says so
    mask_path = tmp_path / "raw" / "ISIC-2017_Training_Part1_GroundTruth" / f"{names[0]}_segmentation.png"
    mask = write_mask(mask_path)
    Image.fromarray(mask).convert("RGB").save(path, exif=exif, quality=95)
    row = build(tmp_path, tmp_path / "raw")["train"][0]
    bright = np.asarray(row["image"])[..., 0] > 127
    assert row["image"].size == row["mask"].size
    assert row["original_size"] == list(bright.shape)
    np.testing.assert_array_equal(np.asarray(row["mask"]) == 1, bright)


def test_image_size_may_be_one_side(tmp_path):
    write_isic(tmp_path / "raw")
    assert build(tmp_path, tmp_path / "raw", image_size=24)["train"][0]["image"].size == (24, 24)
    with pytest.raises(BadInputError, match="image_size is 0, expected"):
        build(tmp_path, tmp_path / "raw", image_size=0)


def test_fractions_split_the_training_part_by_diagnosis(tmp_path):
    write_isic(tmp_path / "raw", diagnoses=("10", "01", "00", "00") * 10)
    dataset = build(tmp_path, tmp_path / "raw", validation_fraction=0.2, test_fraction=0.1, seed=1)
    counts = {name: np.bincount(np.ravel(split["class_labels"])).tolist() for name, split in dataset.items()}
    assert counts == {"train": [7, 7, 14], "validation": [2, 2, 4], "test": [1, 1, 2]}
    again = build(tmp_path / "again", tmp_path / "raw", validation_fraction=0.2, test_fraction=0.1, seed=2)
    assert again["test"]["case_id"] != dataset["test"]["case_id"]


def test_the_official_validation_part_is_kept(tmp_path):
    write_isic(tmp_path / "raw")
    write_isic(tmp_path / "raw", "Validation", first=10)
    with pytest.raises(BadInputError, match="has a validation split already"):
        build(tmp_path, tmp_path / "raw", validation_fraction=0.2)


def test_a_changed_source_file_is_seen(tmp_path):
    names = write_isic(tmp_path / "raw")
    before = build(tmp_path, tmp_path / "raw")["train"][0]
    path = tmp_path / "raw" / "ISIC-2017_Training_Data" / f"{names[0]}.jpg"
    write_photograph(path, seed=99)
    os.utime(path, ns=(1, 1))
    after = build(tmp_path, tmp_path / "raw")["train"][0]
    assert not np.array_equal(np.asarray(before["image"]), np.asarray(after["image"]))


def test_missing_masks_and_diagnoses_are_kept_only_when_allowed(tmp_path):
    names = write_isic(tmp_path / "raw")
    (tmp_path / "raw" / "ISIC-2017_Training_Part1_GroundTruth" / f"{names[0]}_segmentation.png").unlink()
    with pytest.raises(BadInputError, match=rf"{names[0]}\.jpg: image without mask"):
        build(tmp_path, tmp_path / "raw")
    rows = build(tmp_path, tmp_path / "raw", allow_missing=True)["train"]
    assert [row["mask"] is None for row in rows] == [True, False, False]


def data(root, name):
    return root / "ISIC-2017_Training_Data" / name


def truth(root, name):
    return root / "ISIC-2017_Training_Part1_GroundTruth" / name


def write_truth(root, rows, header=("image_id", "melanoma", "seborrheic_keratosis")):
    write_csv(root / "ISIC-2017_Training_Part3_GroundTruth.csv", [header, *rows])


GOOD = [["ISIC_0000000", "1", "0"], ["ISIC_0000001", "0", "1"], ["ISIC_0000002", "0", "0"]]


def claim_gigapixels(root):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        png += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    data(root, "ISIC_0000001.jpg").write_bytes(png)


SKIPPABLE = [
    (claim_gigapixels, "ISIC_0000001.jpg: no decoder takes it (Image size (3600000000 pixels) exceeds limit"),
    (lambda r: data(r, "ISIC_0000001.jpg").write_bytes(b"no image"), "ISIC_0000001.jpg: no decoder takes it"),
    (
        lambda r: data(r, "ISIC_0000001.jpg").write_bytes(data(r, "ISIC_0000001.jpg").read_bytes()[:400]),
        "ISIC_0000001.jpg: no decoder takes it",
    ),
    (
        lambda r: write_mask(truth(r, "ISIC_0000001_segmentation.png"), (39, 30)),
        "ISIC_0000001_segmentation.png: mask is 39 x 30, its image 40 x 30",
    ),
    (
        lambda r: write_mask(truth(r, "ISIC_0000001_segmentation.png"), values=(0, 254)),
        "ISIC_0000001_segmentation.png: mask values 254 are unknown, expected only 0, 255",
    ),
    (
        lambda r: write_photograph(truth(r, "ISIC_0000001_segmentation.png")),
        "ISIC_0000001_segmentation.png: mask is in colour",
    ),
    (lambda r: truth(r, "ISIC_0000001_segmentation.png").unlink(), "ISIC_0000001.jpg: image without mask"),
    (lambda r: write_truth(r, [GOOD[0], GOOD[2]]), "ISIC_0000001.jpg: image without diagnosis"),
    (
        lambda r: [data(r, "ISIC_0000001.jpg").unlink(), write_truth(r, [GOOD[0], GOOD[2]])],
        "mask of ISIC_0000001 has no image",
    ),
    (lambda r: write_truth(r, [*GOOD, ["ISIC_0000009", "0", "0"]]), "diagnosis of ISIC_0000009 has no image"),
    (lambda r: write_truth(r, [*GOOD, GOOD[1]]), "ISIC_0000001 comes twice"),
    (lambda r: write_truth(r, [*GOOD, ["isic_0000001", "0", "1"]]), "ISIC_0000001 and isic_0000001 are one id"),
    (lambda r: write_photograph(data(r, "isic_0000001.JPG")), "ISIC_0000001 and isic_0000001 are one id"),
    (lambda r: write_truth(r, [GOOD[0], ["ISIC_0000001", "1", "1"], GOOD[2]]), "both melanoma and keratosis"),
]


@pytest.mark.parametrize(("damage", "message"), SKIPPABLE)
def test_bad_input_stops_with_one_line_or_is_skipped_and_recorded(tmp_path, capsys, damage, message):
    write_isic(tmp_path / "raw")
    damage(tmp_path / "raw")
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "result" / "out")
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert str(tmp_path / "raw") in error
    assert message in error
    assert not (tmp_path / "result").exists()

    assert run(*arguments, "--on-error", "skip") == 0
    report = json.loads((tmp_path / "result" / "out" / "report.json").read_text())
    assert any(message in record["problem"] for record in report["skipped"])
    assert message in (tmp_path / "result" / "out" / "report.md").read_text()
    assert "ISIC_0000000" in load_prepared(tmp_path / "result" / "out").dataset["train"]["case_id"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda r: write_truth(r, [["ISIC_0000000", "1"]], ("image_id", "melanoma")),
            "column seborrheic_keratosis is missing",
        ),
        (lambda r: write_truth(r, [["ISIC_0000000", "1"]]), "line 2 has another number of fields"),
        (
            lambda r: write_truth(r, [["ISIC_0000000", "nan", "0"]]),
            "melanoma of ISIC_0000000 is 'nan', expected 0 or 1",
        ),
        (lambda r: write_truth(r, [["ISIC_0000000", "2", "0"]]), "is '2', expected 0 or 1"),
        (lambda r: write_truth(r, []), "found no rows"),
        (
            lambda r: (r / "ISIC-2017_Training_Part3_GroundTruth.csv").write_bytes(b"\xff\xfe\x00image_id"),
            "not UTF-8",
        ),
    ],
)
def test_a_bad_table_is_named(tmp_path, capsys, damage, message):
    write_isic(tmp_path / "raw")
    damage(tmp_path / "raw")
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "ISIC-2017_Training_Part3_GroundTruth.csv" in error
    assert message in error
    assert not (tmp_path / "out").exists()


def test_an_empty_or_absent_source(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out") == 1
    assert f"{tmp_path / 'raw'}: holds no cases of isic2017" in capsys.readouterr().err
    assert run("--source", tmp_path / "nowhere", "--output", tmp_path / "out") == 1
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_all_cases_bad_is_an_error_even_when_skipping(tmp_path, capsys):
    write_isic(tmp_path / "raw", diagnoses=("00",))
    data(tmp_path / "raw", "ISIC_0000000.jpg").write_bytes(b"no image")
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out", "--on-error", "skip") == 1
    assert "no readable case is left" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_existing_result_is_replaced_only_on_request_and_only_when_the_new_one_is_complete(tmp_path, capsys):
    write_isic(tmp_path / "raw")
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "result" / "out")
    assert run(*arguments) == 0
    assert run(*arguments) == 1
    assert "exists already" in capsys.readouterr().err
    write_truth(tmp_path / "raw", [["ISIC_0000000", "2", "0"]])
    assert run(*arguments, "--overwrite") == 1  # fails: the old result stays
    assert len(load_prepared(tmp_path / "result" / "out").dataset["train"]) == 3
    write_isic(tmp_path / "raw", diagnoses=("00",) * 4)
    assert run(*arguments, "--overwrite") == 0
    assert len(load_prepared(tmp_path / "result" / "out").dataset["train"]) == 4
    assert [path.name for path in (tmp_path / "result").iterdir()] == ["out"]


def test_the_output_may_lie_inside_the_source(tmp_path):
    write_isic(tmp_path / "raw")
    for _ in range(2):
        assert run("--source", tmp_path / "raw", "--output", tmp_path / "raw" / "prepared", "--overwrite") == 0
    assert len(load_prepared(tmp_path / "raw" / "prepared").dataset["train"]) == 3


def test_overwrite_leaves_foreign_folders_alone(tmp_path, capsys):
    write_isic(tmp_path / "raw")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "thesis", "--overwrite") == 1
    assert "is no prepared dataset, so --overwrite leaves it alone" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_load_prepared_explains_what_is_wrong(tmp_path):
    with pytest.raises(BadInputError, match="no such folder"):
        load_prepared(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match=r"holds neither dataset_dict\.json nor data"):
        load_prepared(tmp_path)
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": [1]})}).save_to_disk(tmp_path / "other")
    with pytest.raises(BadInputError, match="not a prepared dataset, column image, mask"):
        load_prepared(tmp_path / "other")


def test_balanced_weights_of_the_official_training_part():
    weights = balanced({"melanoma": 374, "seborrheic_keratosis": 254, "nevus": 1372}, 2000)
    assert [round(weight, 2) for weight in weights.values()] == [1.78, 2.62, 0.49]
    with pytest.raises(BadInputError, match="no training row has the class nevus"):
        balanced({"melanoma": 1, "nevus": 0}, 1)


def test_balanced_weights_of_a_split(sample):
    weights = balanced_class_weights(load_prepared(sample).dataset["train"])
    assert weights == pytest.approx([40 / (3 * 13), 40 / (3 * 11), 40 / (3 * 16)])


def test_sixteen_bit_and_palette_images_pass_through(tmp_path):
    names = write_isic(tmp_path / "raw", diagnoses=("00", "00"))
    deep = np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 50
    folder = tmp_path / "raw" / "ISIC-2017_Training_Data"
    for name in names:
        (folder / f"{name}.jpg").unlink()
    Image.fromarray(deep).save(folder / f"{names[0]}.png")
    Image.fromarray((deep // 256).astype(np.uint8)).convert("P").save(folder / f"{names[1]}.png")
    rows = build(tmp_path, tmp_path / "raw")["train"].cast_column("image", datasets.Image(decode=False))
    assert [row["image"]["bytes"] for row in rows] == [(folder / f"{name}.png").read_bytes() for name in names]
    image = Image.open(io.BytesIO(rows[0]["image"]["bytes"]))
    np.testing.assert_array_equal(np.asarray(image), deep)
