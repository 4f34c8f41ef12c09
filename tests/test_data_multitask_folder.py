"""One's own folder in every legal form, and each mistake named."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import write_csv, write_mask, write_photograph


pytest.importorskip("datasets")

from modeling_resformer.commands import prepare_folder
from modeling_resformer.data import MultiTaskFolder, load_prepared
from modeling_resformer.data.multitask_folder import parse_mask_values
from modeling_resformer.errors import BadInputError


def run(*arguments):
    return prepare_folder.main([str(argument) for argument in arguments])


def write_folder(root, names=("a", "b", "c"), masks=True, table=None):
    for i, name in enumerate(names):
        write_photograph(root / "images" / f"{name}.jpg", seed=i)
        if masks:
            write_mask(root / "masks" / f"{name}.png")
    if table is not None:
        write_csv(root / "labels.csv", table)


LESION = {0: "background", 255: "lesion"}
TABLE = [["file_name", "class_labels"], ["a.jpg", "flat;red"], ["b", "none"], ["images/c.jpg", ""]]


def build(tmp_path, mask_values=LESION, **options):
    builder = MultiTaskFolder(
        data_dir=tmp_path / "raw", cache_dir=tmp_path / "cache", mask_values=mask_values, **options
    )
    builder.download_and_prepare()
    return builder.as_dataset()


def test_named_labels_none_and_unlabelled(tmp_path):
    write_folder(tmp_path / "raw", table=TABLE)
    rows = build(tmp_path)["train"]
    assert rows.features["class_labels"].feature.names == ["flat", "red"]
    assert rows["class_labels"] == [[0, 1], [], None]
    assert rows["mask_classes"] == [[1], [1], [1]]
    np.testing.assert_array_equal(
        np.asarray(rows[0]["mask"]), np.asarray(Image.open(tmp_path / "raw" / "masks" / "a.png")) // 255
    )


def test_given_label_names_fix_the_order(tmp_path):
    write_folder(tmp_path / "raw", table=TABLE)
    assert build(tmp_path, label_names=["red", "flat", "new"])["train"]["class_labels"] == [[1, 0], [], None]


def test_one_column_per_class_with_unknown_states(tmp_path):
    table = [["file_name", "red", "flat", "site"], ["a", "1", "0.0", "x"], ["b", "", "1", "y"], ["c", "", "", ""]]
    write_folder(tmp_path / "raw", table=table)
    rows = build(tmp_path, label_names=["red", "flat"])["train"]
    assert rows["class_labels"] == [[0], [1], None]
    assert rows["class_labels_unknown"] == [[], [0], []]
    assert rows["site"] == ["x", "y", ""]


def test_json_lines(tmp_path):
    write_folder(tmp_path / "raw")
    rows = [
        {"file_name": "a.jpg", "class_labels": ["red"], "case_id": 7, "split": "test"},
        {"file_name": "b.jpg", "class_labels": [], "case_id": 7, "split": "test"},
        {"file_name": "c.jpg", "class_labels": None, "case_id": 8, "split": "train"},
    ]
    (tmp_path / "raw" / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = build(tmp_path)
    assert dataset["test"]["case_id"] == ["7", "7"]
    assert dataset["test"]["slice_index"] == [0, 1]
    assert dataset["test"]["class_labels"] == [[0], []]
    assert dataset["train"]["class_labels"] == [None]


def test_masks_may_be_missing_for_part_of_the_rows(tmp_path):
    write_folder(tmp_path / "raw", table=TABLE)
    (tmp_path / "raw" / "masks" / "b.png").unlink()
    rows = build(tmp_path)["train"]
    assert [row["mask"] is None for row in rows] == [False, True, False]
    assert rows["mask_classes"] == [[1], None, [1]]


def test_no_masks_and_no_labels_at_all(tmp_path):
    write_folder(tmp_path / "raw", masks=False)
    rows = build(tmp_path, mask_values=None)["train"]
    assert rows["class_labels"] == [None, None, None]
    assert rows.features["mask_classes"].feature.names == ["background"]


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "mask",
            ["--mask-values", "0=background,255=lesion"],
            "though --mask-values speaks of masks; rename {root}/mask to",
        ),
        (
            "Masks",
            ["--mask-values", "0=background,255=lesion", "--merge-masks"],
            "--merge-masks speak of masks; rename {root}/Masks",
        ),
        (None, ["--merge-masks"], "though --merge-masks speaks of masks; put the masks there"),
    ],
)
def test_mask_flags_without_one_mask_are_refused_unless_that_is_meant(tmp_path, capsys, name, flags, message):
    root = tmp_path / "raw"
    write_folder(root, masks=False, table=TABLE)
    if name is not None:
        write_mask(root / name / "a.png")
    arguments = ("--source", root, "--output", tmp_path / "out", *flags)
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{root / 'masks'}: no mask found there" in error and message.format(root=root) in error
    assert "--allow-missing" in error and not (tmp_path / "out").exists()
    assert run(*arguments, "--allow-missing") == 0


@pytest.mark.parametrize(
    ("split", "fractions", "rule"),
    [
        (
            None,
            ["test", "validation"],
            "drawn: 0.4 of the cases to test, 0.4 to validation, by case, stratified by label, seed 0",
        ),
        (
            "train",
            ["test"],
            "as the source gives it; then 0.4 of the training cases to test, by case, stratified by label, seed 0",
        ),
        ("test", [], "as the source gives it"),
        (None, [], "none: the source gives none, and none was drawn"),
    ],
)
def test_the_rule_of_a_split_says_what_was_given_and_what_was_drawn(tmp_path, capsys, split, fractions, rule):
    table = [["file_name", "class_labels", "split"], *([name, "red", split or ""] for name in "abc")]
    write_folder(tmp_path / "raw", table=table if split else None)
    flags = [part for name in fractions for part in (f"--{name}-fraction", "0.4")]
    masks = ("--mask-values", "0=background,255=lesion")
    assert run("--source", tmp_path / "raw", "--output", tmp_path / "out", *masks, *flags) == 0
    assert json.loads((tmp_path / "out/resformer.json").read_text())["split_rule"] == rule
    printed = capsys.readouterr().out
    for name in ("test", "validation"):
        assert (f"there is no {name} split; --{name}-fraction" in printed) == (name not in (*fractions, split))


def test_several_values_may_share_a_class(tmp_path):
    write_folder(tmp_path / "raw")
    write_mask(tmp_path / "raw" / "masks" / "b.png", values=(0, 3))
    rows = build(tmp_path, mask_values={0: "background", 255: "lesion", 3: "lesion", 4: "rim"})["train"]
    assert rows.features["mask_classes"].feature.names == ["background", "lesion", "rim"]
    assert rows["mask_classes"] == [[1], [1], [1]]


def test_nested_folders_endings_and_palette_masks(tmp_path):
    write_folder(tmp_path / "raw", names=("x/a", "y/a"), masks=False)
    values = np.zeros((30, 40), np.uint8)
    values[:5] = 1
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for name in ("x/a_mask", "y/a_segmentation"):
        (tmp_path / "raw" / "masks" / name).parent.mkdir(parents=True)
        palette.save(tmp_path / "raw" / "masks" / f"{name}.png")
    rows = build(tmp_path, mask_values={0: "background", 1: "cyst"})["train"]
    assert rows["case_id"] == ["x/a", "y/a"]
    np.testing.assert_array_equal(np.asarray(rows[1]["mask"]), values)


def test_patients_stay_together(tmp_path):
    names = [f"p{i // 3}_{i % 3}" for i in range(30)]
    table = [
        ["file_name", "case_id", "class_labels"],
        *([n, n[:2], "red" if i % 2 else "none"] for i, n in enumerate(names)),
    ]
    write_folder(tmp_path / "raw", names, table=table)
    dataset = build(tmp_path, test_fraction=0.3, validation_fraction=0.2)
    cases = {name: set(split["case_id"]) for name, split in dataset.items()}
    assert {name: len(ids) for name, ids in cases.items()} == {"train": 5, "validation": 2, "test": 3}
    assert len(set.union(*cases.values())) == 10


def test_sixteen_bit_tiff_becomes_a_png_without_loss(tmp_path):
    write_folder(tmp_path / "raw", names=("a",))
    deep = np.random.default_rng(0).integers(0, 65535, (30, 40), dtype=np.uint16, endpoint=True)
    (tmp_path / "raw" / "images" / "a.jpg").unlink()
    Image.fromarray(deep).save(tmp_path / "raw" / "images" / "a.tif")
    image = build(tmp_path)["train"][0]["image"]
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), deep)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_tiff_and_its_raw_mask_stay_together(tmp_path, orientation):
    # Pillow turns TIFF by itself, so it must not be turned twice, nor its mask left behind.
    write_folder(tmp_path / "raw", names=("a",))
    (tmp_path / "raw" / "images" / "a.jpg").unlink()
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(tmp_path / "raw" / "masks" / "a.png") as mask:
        mask.convert("RGB").save(tmp_path / "raw" / "images" / "a.tiff", exif=exif)
    row = build(tmp_path)["train"][0]
    bright = np.asarray(row["image"])[..., 0] > 127
    assert row["original_size"] == list(bright.shape)
    np.testing.assert_array_equal(np.asarray(row["mask"]) == 1, bright)


def test_spacing_is_scaled_with_the_image(tmp_path):
    table = [["file_name", "row_spacing", "column_spacing"], ["a", "0.1", "0.2"]]
    write_folder(tmp_path / "raw", names=("a",), table=table)
    assert build(tmp_path, image_size=(60, 10))["train"][0]["spacing"] == pytest.approx([0.05, 0.8])


def test_a_zip_with_the_folder_wrapped_in_it(tmp_path):
    write_folder(tmp_path / "raw", table=TABLE)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in (tmp_path / "raw").rglob("*.*"):
            archive.write(path, Path("my scans", path.relative_to(tmp_path / "raw")))
    arguments = (
        "--source",
        tmp_path / "scans.zip",
        "--output",
        tmp_path / "out",
        "--mask-values",
        "0=background,255=x",
    )
    assert run(*arguments) == 0
    assert load_prepared(tmp_path / "out").dataset["train"]["case_id"] == ["a", "b", "c"]


def write_float_image(root):
    (root / "images" / "b.jpg").unlink()
    Image.fromarray(np.full((30, 40), np.nan, dtype=np.float32)).save(root / "images" / "b.tif")


def write_two_pages(root):
    pages = [Image.new("L", (40, 30), value) for value in (0, 9)]
    (root / "images" / "b.jpg").unlink()
    pages[0].save(root / "images" / "b.tif", save_all=True, append_images=pages[1:])


BAD = [
    (write_float_image, "b.tif: samples of mode 'F' are not 8 or 16 bits"),
    (write_two_pages, "b.tif: holds several images, expected one"),
    (lambda r: write_mask(r / "masks" / "b.png", values=(0, 254)), "b.png: mask values 254 are unknown"),
    (lambda r: write_mask(r / "masks" / "b.png", size=(9, 9)), "b.png: mask is 9 x 9, its image 40 x 30"),
    (lambda r: write_mask(r / "masks" / "z.png"), "z.png: mask without an image"),
    (lambda r: write_mask(r / "masks" / "b_mask.png"), "b_mask.png: a second mask of one image, beside b.png"),
    (lambda r: (r / "masks" / "b.txt").write_text("x"), "b.txt: not a mask"),
    (lambda r: (r / "images" / "b.txt").write_text("x"), "b.txt: not an image"),
    (lambda r: (r / "images" / "b.jpg").write_bytes(b"x"), "b.jpg: no decoder takes it (not an image format)"),
    (lambda r: write_photograph(r / "images" / "b.png"), "images: b comes twice"),
    (lambda r: write_photograph(r / "images" / "B.jpg"), "are one id"),
    (lambda r: write_csv(r / "labels.csv", [*TABLE, ["z", "red"]]), "labels.csv: z has no image in images"),
    (lambda r: write_csv(r / "labels.csv", [*TABLE, ["a", "red"]]), "labels.csv: a comes twice"),
    (
        lambda r: write_csv(r / "labels.csv", [["file_name", "split"], ["a", "training"]]),
        "labels.csv: split 'training' of a, expected train",
    ),
    (
        lambda r: write_csv(r / "labels.csv", [["file_name", "slice_index"], ["a", "1.5"]]),
        "slice_index of a is '1.5', expected 0, 1, 2",
    ),
    (
        lambda r: write_csv(r / "labels.csv", [["file_name", "row_spacing", "column_spacing"], ["a", "nan", "1"]]),
        "labels.csv: spacing ['nan', '1'] of a, expected two positive numbers",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_bad_input_stops_with_one_line_or_is_skipped_and_recorded(tmp_path, capsys, damage, message):
    write_folder(tmp_path / "raw", names=("a", "b", "c", "d"), table=TABLE)
    damage(tmp_path / "raw")
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "result" / "out")
    arguments += ("--mask-values", "0=background,255=lesion")
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "raw") in error
    assert message in error
    assert not (tmp_path / "result").exists()

    assert run(*arguments, "--on-error", "skip") == 0
    report = json.loads((tmp_path / "result" / "out" / "report.json").read_text())
    assert any(message in record["problem"] for record in report["skipped"])
    assert "c" in load_prepared(tmp_path / "result" / "out").dataset["train"]["case_id"]


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (lambda r: None, {"mask_values": None}, "masks: what do the values mean"),
        (lambda r: write_csv(r / "labels.csv", [["name"], ["a"]]), {}, "column file_name is missing; found name"),
        (
            lambda r: write_csv(r / "labels.csv", [["file_name", "x"], ["a", "1"]]),
            {"label_names": ["red"]},
            "column red",
        ),
        (lambda r: None, {"label_names": ["flat"]}, "label 'red' of a.jpg, expected flat"),
        (lambda r: write_csv(r / "more.csv", TABLE), {}, "several tables"),
        (lambda r: write_csv(r / "labels.csv", [["file_name", "spacing"], ["a", "1"]]), {}, "settled column"),
        (
            lambda r: write_csv(
                r / "labels.csv", [["file_name", "case_id", "split"], ["a", "p", "train"], ["b", "p", "test"]]
            ),
            {},
            "case p is in the splits train and test",
        ),
        (lambda r: (r / "images").rename(r / "photographs"), {}, "holds no folder images"),
        (lambda r: [path.unlink() for path in r.rglob("*.*")], {}, "holds no cases"),
    ],
)
def test_what_cannot_be_skipped_stops(tmp_path, damage, options, message):
    write_folder(tmp_path / "raw", table=TABLE)
    damage(tmp_path / "raw")
    with pytest.raises(BadInputError, match=message):
        build(tmp_path, **options)


def test_broken_json_lines(tmp_path):
    write_folder(tmp_path / "raw")
    (tmp_path / "raw" / "labels.jsonl").write_text('{"file_name": "a"}\n{"file_name": \n')
    with pytest.raises(BadInputError, match=r"labels\.jsonl: line 2 is not JSON"):
        build(tmp_path)


def write_objects(root, *masks):
    """An image "a" with masks a_mask.png, a_mask_1.png ...: each a list of (rows, value)."""
    write_photograph(root / "images" / "a.png")
    write_photograph(root / "images" / "b.png", seed=1)
    (root / "masks").mkdir()
    for i, drawn in enumerate(masks):
        mask = np.zeros((30, 40), dtype=np.uint8)
        for rows, value in drawn:
            mask[rows] = value
        Image.fromarray(mask).save(root / "masks" / f"a_mask{f'_{i}' if i else ''}.png")


CLASSES = {0: "background", 1: "cyst", 2: "tumour"}
TOP, MIDDLE, BOTTOM = slice(0, 10), slice(10, 20), slice(20, 30)


def test_several_masks_are_united_on_request(tmp_path):
    write_objects(tmp_path / "raw", [(TOP, 1), (BOTTOM, 9)], [(MIDDLE, 2), (TOP, 9)], [(slice(5, 15), 0), (TOP, 1)])
    options = {"mask_values": CLASSES, "unannotated_code": 9, "merge_masks": True}
    rows = build(tmp_path, **options)["train"]
    mask = np.asarray(rows[0]["mask"])
    # A class wins over background and over pixels that nobody annotated, and these over background.
    assert [np.unique(mask[part]).tolist() for part in (TOP, MIDDLE, BOTTOM)] == [[1], [2], [255]]
    assert rows["mask_classes"] == [[1, 2], None]


def test_several_masks_are_refused_with_their_names_and_the_flag(tmp_path, capsys):
    write_objects(tmp_path / "raw", [(TOP, 1)], [(MIDDLE, 1)], [(BOTTOM, 1)])
    arguments = ["--source", tmp_path / "raw", "--output", tmp_path / "out", "--mask-values", "0=background,1=cyst"]
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert "a_mask_1.png: a second mask of one image, beside a_mask.png, a_mask_2.png" in error
    assert "--merge-masks" in error
    assert run(*arguments, "--on-error", "skip") == 0  # the image goes, since one mask of three would mislead
    assert load_prepared(tmp_path / "out").dataset["train"]["case_id"] == ["b"]
    assert run(*arguments, "--merge-masks", "--overwrite") == 0
    (row, _) = load_prepared(tmp_path / "out").dataset["train"]
    assert np.asarray(row["mask"]).min() == 1


def test_masks_that_give_a_pixel_two_classes_are_refused(tmp_path):
    write_objects(tmp_path / "raw", [(TOP, 1)], [(slice(5, 15), 2)])
    with pytest.raises(BadInputError, match=r"a_mask_1\.png: 200 pixels have another class than in a_mask\.png"):
        build(tmp_path, mask_values=CLASSES, merge_masks=True)


def test_a_numbered_mask_belongs_to_the_image_of_its_whole_name_first(tmp_path):
    write_objects(tmp_path / "raw", [(TOP, 1)], [(MIDDLE, 2)])
    write_photograph(tmp_path / "raw" / "images" / "a_mask_1.png", seed=2)
    assert build(tmp_path, mask_values=CLASSES)["train"]["mask_classes"] == [[1], [2], None]
    write_mask(tmp_path / "raw" / "masks" / "b_1.png")  # no ending that marks a mask: perhaps of an image that is lost
    with pytest.raises(BadInputError, match=r"b_1\.png: mask without an image"):
        build(tmp_path, mask_values=CLASSES, merge_masks=True)


@pytest.mark.parametrize("text", ["", "0", "0=a,0=b", "x=a", "0=", "0=a;1=b,"])
def test_wrong_mask_values(text):
    with pytest.raises(BadInputError, match=r"write e\.g\. 0=background,255=lesion"):
        parse_mask_values(text)


def test_the_script_end_to_end_with_a_manifest(tmp_path):
    write_folder(tmp_path / "raw", table=TABLE)
    write_csv(tmp_path / "splits.csv", [["case_id", "split"], ["A", "train"], ["b", "test"], ["c", "validation"]])
    arguments = ["--source", tmp_path / "raw", "--output", tmp_path / "out", "--splits", tmp_path / "splits.csv"]
    arguments += ["--mask-values", "0=background,255=lesion", "--label-names", "red,flat", "--image-size", 16, 24]
    assert run(*arguments) == 0
    prepared = load_prepared(tmp_path / "out")
    assert {name: split["case_id"] for name, split in prepared.dataset.items()} == {
        "train": ["a"],
        "validation": ["c"],
        "test": ["b"],
    }
    assert prepared.metadata["mask_resolution"] == [16, 24]
    # One row has both classes.
    assert prepared.metadata["labels_exclusive"] is False and prepared.classification_type == "multi_label"
    assert prepared.dataset["train"][0]["image"].size == (24, 16)
