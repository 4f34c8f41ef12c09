"""Files that lie, one by one as they were found: each is refused in one line that names it, at once and in little memory."""

import csv
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from answering_model import claiming_png
from hostile_images import many_pages
from nifti_data import write_nifti
from PIL import Image
from raw_data import random_volume, write_metaimage, write_photograph
from run_here import run_command


pytest.importorskip("pydicom")
pytest.importorskip("SimpleITK")

from dicom_data import CT, dataset_of, save, write_oct

from modeling_resformer.data import archives
from modeling_resformer.data.annotated import read_annotated_slices
from modeling_resformer.data.archives import unpack
from modeling_resformer.data.label_tables import read_table
from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.data.splits import read_manifest, write_manifest
from modeling_resformer.errors import BadInputError, Problems
from modeling_resformer.escaping import safe_cell, stored_cell
from modeling_resformer.image_processing_pil_resformer import MAX_PIXELS, open_image
from modeling_resformer.limits import DEFAULT_LIMITS, InputLimits
from modeling_resformer.prediction.journal import Journal
from modeling_resformer.prediction.result_tables import write_tables
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.volumes.finding import find_volumes
from modeling_resformer.volumes.scan import read_scan


SHAPE = (3, 12, 10)


def line_of(caught, path):
    """The one line of an error, which names the file."""
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and len(message) < 800
    return message


# Volumes and images ----------------------------------------------------------------------------------------------------


def volume_problem(path):
    (source,) = find_volumes(path)
    with pytest.raises(BadInputError) as caught:
        read_scan(source)
    return line_of(caught, path)


@pytest.mark.parametrize(
    "rows",
    [
        (0, 0, 0, float("inf"), *[0] * 8),  # kept ITK busy for ever
        (0,) * 12,
        (1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0),
        (1e-30, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0),
    ],
)
def test_nifti_whose_sform_is_no_place(tmp_path, rows):
    path = write_nifti(tmp_path / "a.nii", random_volume(SHAPE), srow=rows)
    assert "its sform" in volume_problem(path)


@pytest.mark.parametrize("offset", [0.0, 348.0, float("nan"), 1e30])
def test_nifti_whose_voxels_begin_elsewhere(tmp_path, offset):
    path = write_nifti(tmp_path / "a.nii", random_volume(SHAPE))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 108, offset)
    path.write_bytes(content)
    assert "vox_offset" in volume_problem(path)


@pytest.mark.parametrize(("place", "name"), [(112, "scl_slope"), (80, "pixdim"), (256, "qform")])
def test_nifti_with_numbers_that_are_none(tmp_path, place, name):
    path = write_nifti(tmp_path / "a.nii", random_volume(SHAPE))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, place, float("nan"))
    path.write_bytes(content)
    assert name in volume_problem(path)


@pytest.mark.parametrize(("slope", "intercept"), [(1e-30, 0.0), (0.0, 3.0), (1e30, 0.0)])
def test_nifti_whose_scale_every_reader_takes_otherwise(tmp_path, slope, intercept):
    path = write_nifti(tmp_path / "a.nii", random_volume(SHAPE))
    content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, 112, slope, intercept)
    path.write_bytes(content)
    assert "scl_slope" in volume_problem(path)


def test_nifti_that_tells_two_lengths_of_a_voxel_tells_none(tmp_path):
    write_nifti(tmp_path / "a.nii", random_volume(SHAPE), pixdim=(1, 1, 1), srow=(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0))
    (source,) = find_volumes(tmp_path / "a.nii")
    assert read_scan(source).spacing is None


def test_dicom_of_a_thousand_million_frames(tmp_path):
    path = write_oct(tmp_path / "a.dcm", random_volume((2, 1, 2)), NumberOfFrames=1_000_000_000)
    assert "more than" in volume_problem(path)
    path = write_oct(tmp_path / "b.dcm", random_volume((2, 1, 2)), NumberOfFrames=50_000_000)
    assert "header claims 100000000 bytes" in volume_problem(path)


def test_dicom_slices_numbered_far_apart(tmp_path):
    for number in (1, 2_147_483_647):
        dataset = dataset_of(random_volume((12, 10), "uint16"), CT, InstanceNumber=number)
        save(dataset, tmp_path / f"{number}.dcm")
    (source,) = find_volumes(tmp_path)
    with pytest.raises(BadInputError, match="InstanceNumber 2 is missing"):
        read_scan(source)


def test_a_metaimage_that_is_small_and_claims_much(tmp_path):
    write_metaimage(tmp_path / "a.mhd", random_volume(SHAPE), compressed=True, DimSize="2000 2000 1000")
    assert "more than 536870912" in volume_problem(tmp_path / "a.mhd")
    write_metaimage(tmp_path / "b.mhd", random_volume(SHAPE), compressed=True, DimSize="2000 2000 100")
    assert "cannot hold that" in volume_problem(tmp_path / "b.mhd")


def test_a_tiff_of_pages_of_several_depths(tmp_path):
    pages = [Image.fromarray(random_volume((12, 10))), Image.fromarray(np.full((12, 10), 1000, np.uint16))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "page 1 has another size or depth" in volume_problem(tmp_path / "a.tif")


def test_a_tiff_of_more_pages_than_any_scan(tmp_path):
    (tmp_path / "a.tif").write_bytes(many_pages(4097))
    assert "more than 4096 pages" in volume_problem(tmp_path / "a.tif")


def test_a_volume_may_be_larger_where_its_user_says_so(tmp_path):
    write_metaimage(tmp_path / "a.mhd", random_volume(SHAPE))
    (source,) = find_volumes(tmp_path / "a.mhd")
    with pytest.raises(BadInputError, match="--max-voxels"):
        read_scan(source, InputLimits(voxels=359))
    with pytest.raises(BadInputError, match="--max-pixels"):
        read_scan(source, InputLimits(pixels=119))
    assert read_scan(source, InputLimits(120, 360)).voxels.shape == SHAPE


def skipping_bmp(width):
    """A run-length encoded BMP of one row, whose only code skips 255 rows; Pillow makes memory for them."""
    code, colours = bytes([0, 2, 0, 255, 0, 1]), bytes(4 * 256)
    start = 14 + 40 + len(colours)
    head = b"BM" + struct.pack("<IHHI", start + len(code), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, width, 1, 1, 8, 1, len(code), 0, 0, 256, 0) + colours + code


def tiled_tiff(side):
    """A TIFF of 100 x 100 pixels whose only tile has so many on each side."""
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(8)


@pytest.mark.parametrize("content", [skipping_bmp(4_000_000), tiled_tiff(16_384)], ids=["bmp", "tiff"])
def test_an_image_is_no_larger_inside_than_outside(tmp_path, content):
    """A kilobyte of such a BMP took 2 GB; a tile of a TIFF is decoded whole, however little of it the image shows."""
    path = tmp_path / "small"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pixels, more than max_pixels=100000000") as caught:
        open_image(path)
    line_of(caught, path)


def test_a_tiff_holds_the_pixels_that_it_claims(tmp_path):
    """One strip of 20 rows, and a height of millions: the rest was black, and a gigabyte."""
    path = tmp_path / "small.tif"
    tags = {256: 24, 257: 2_771_273, 258: 8, 259: 1, 262: 1, 273: 134, 277: 1, 278: 20, 279: 480}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(480 + 134))
    with pytest.raises(ValueError, match="holds 480 pixels of 24 x 2771273") as caught:
        open_image(path)
    line_of(caught, path)


def test_an_image_that_claims_more_pixels_than_allowed(tmp_path, predict, model, capsys):
    images = tmp_path / "mine" / "images"
    images.mkdir(parents=True)
    (images / "a.png").write_bytes(claiming_png(13_300, 13_300))
    write_photograph(images / "b.png", size=(20, 16))
    source = ["--source", tmp_path / "mine", "--on-error", "skip", "--no-leakage-check"]
    assert run_command("prepare_folder", *source, "--output", tmp_path / "out", "--parquet") == 0
    card = (tmp_path / "out" / "parquet" / "README.md").read_text()
    assert "13300 x 13300 pixels" in card and str(tmp_path) not in card, "where files lie is nobody else's business"
    (skipped,) = json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]
    assert "a.png: has 13300 x 13300 pixels, more than 100000000" in skipped["problem"]
    assert run_command("prepare_folder", *source, "--output", tmp_path / "none", "--max-pixels", "319") == 1
    assert "no readable case is left" in capsys.readouterr().err
    options = [model, str(images), "--max-pixels", "320", "--output", str(tmp_path / "masks")]
    assert predict(options) == 1
    (problem,) = json.loads((tmp_path / "masks" / "problems.json").read_text())
    assert "a.png" in problem["source"] and "more than max_pixels=320" in problem["problem"]
    assert DEFAULT_LIMITS.pixels == MAX_PIXELS


# Tables ----------------------------------------------------------------------------------------------------------------

DEEP = b'{"file_name": ' + b"[" * 3000 + b"]" * 3000 + b"}"
BAD_TABLES = {
    "latin.csv": (b"file_name\ncaf\xe9.png\n", "UTF-8"),
    "twice.csv": (b"file_name,age,age\na.png,1,2\n", "'age' comes 2 times"),
    "latin.jsonl": (b'{"file_name": "caf\xe9.png"}', "UTF-8"),
    "key.jsonl": (b'{"file_name": "a.png"}\n{"age": 3}', "row 2 has None as file_name"),
    "kind.jsonl": (b'{"file_name": {"a": 1}}', "expected text or a number"),
    "deep.jsonl": (DEEP, "line 1 is not JSON"),
    "digits.jsonl": (b'{"file_name": "a.png", "age": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
    "surrogate.jsonl": (b'{"file_name": "\\ud800.png"}', "surrogate"),
    "control.csv": (b"file_name\na\x1b[31m.png\n", "control character"),
    "twice.jsonl": (b'{"file_name": "a.png", "file_name": "b.png"}', "'file_name' comes twice"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_cannot_be_read(tmp_path, name):
    content, reason = BAD_TABLES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        read_table(tmp_path / name, required=("file_name",))
    assert reason in line_of(caught, tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b'{"case_id": "a"}\n{"case_id": "b", "split": "test"}', b'{"case_id": "a", "split": ["test"]}', b"[1]", b"\xff"],
)
def test_a_manifest_that_cannot_be_read(tmp_path, content):
    (tmp_path / "splits.jsonl").write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        read_manifest(tmp_path / "splits.jsonl")
    line_of(caught, tmp_path / "splits.jsonl")


@pytest.mark.parametrize("index", ["²", "12345678901234567890", "-1", "1.0"])
def test_a_number_that_only_looks_like_one(tmp_path, index):
    path = tmp_path / "slices.csv"
    path.write_text(f"case_id,slice_index\na,{index}\n")
    with pytest.raises(BadInputError) as caught:
        read_annotated_slices(path, [("a", range(3))], Problems())
    assert "expected 0, 1, 2" in line_of(caught, path)


@pytest.mark.parametrize("column", ["slice_index", "row_spacing", "split", "class_labels"])
def test_one_bad_row_is_skipped_where_that_is_asked_for(tmp_path, column):
    for name in "abc":
        write_photograph(tmp_path / "mine" / "images" / f"{name}.png", size=(8, 8))
    rows = [{"file_name": f"{name}.png", "class_labels": "x", column: "x"} for name in "ab"]
    bad = {"slice_index": "²", "row_spacing": 10**400, "split": {"a": 1}, "class_labels": "[" * 3000}[column]
    rows = [{**row, column: {"class_labels": "x"}.get(column)} for row in rows]
    lines = [*rows, {"file_name": "c.png", "class_labels": "x", column: bad}]
    if column == "row_spacing":
        lines[2]["column_spacing"] = 1
    (tmp_path / "mine" / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["--source", tmp_path / "mine", "--output", tmp_path / "out", "--label-names", "x", "--on-error", "skip"]
    assert run_command("prepare_folder", *options, "--no-leakage-check") == 0
    (skipped,) = json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]
    assert skipped["case_id"] == "c" and "table.jsonl" in skipped["problem"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b"{"),
        ("resformer.json", b"[1]"),
        ("resformer.json", b"\xff"),
        ("dataset_info.json", b"3"),
        (".arrow", b""),
    ],
)
def test_a_prepared_dataset_that_was_damaged(tmp_path, name, content):
    write_photograph(tmp_path / "mine" / "images" / "a.png", size=(8, 8))
    assert run_command("prepare_folder", "--source", tmp_path / "mine", "--output", tmp_path / "out") == 0
    path = next(path for path in sorted((tmp_path / "out").rglob("*")) if path.name.endswith(name))
    path.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        load_prepared(tmp_path / "out")
    line_of(caught, tmp_path / "out")


def test_the_name_of_a_class_is_one_line(tmp_path, capsys):
    write_photograph(tmp_path / "mine" / "images" / "a.png", size=(8, 8))
    (tmp_path / "mine" / "t.jsonl").write_text(json.dumps({"file_name": "a", "class_labels": ["a\nb"]}))
    assert run_command("prepare_folder", "--source", tmp_path / "mine", "--output", tmp_path / "out") == 1
    assert "the name of a class is 'a\\nb'" in capsys.readouterr().err


def test_text_that_begins_like_a_formula_is_text_in_every_table(tmp_path):
    names = ["=HYPERLINK(1)", "+1", "-1", "@a", "'=a", "plain", "'quoted'"]
    assert [stored_cell(safe_cell(name)) for name in names] == names
    assert safe_cell(-1.5) == -1.5 and safe_cell("plain") == "plain"
    write_manifest(dict.fromkeys(names, "test"), tmp_path / "splits.csv")
    assert read_manifest(tmp_path / "splits.csv") == dict.fromkeys(names, "test")
    rows = [{"case_id": name, "score": -0.5} for name in names]
    table, _ = write_tables(tmp_path / "predictions", {"case_id": "text", "score": "number"}, rows)
    for path in (tmp_path / "splits.csv", table):
        with open(path, newline="") as file:
            cells = [row["case_id"] for row in csv.DictReader(file)]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert "-0.5" in table.read_text() and "'-0.5" not in table.read_text()


# Archives --------------------------------------------------------------------------------------------------------------


def test_many_small_bombs_are_one(tmp_path, monkeypatch):
    """Each claims less than the limit of one archive, and no byte of any is written."""
    outer = io.BytesIO()
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.raw", bytes(30 << 20))
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"{number}.zip", inner.getvalue())
    (tmp_path / "raw.zip").write_bytes(outer.getvalue())
    monkeypatch.setattr(archives, "BOMB_BYTES", 40 << 20)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError, match="a zip bomb"):
        unpack(tmp_path / "raw.zip", tmp_path / "target")
    written = sum(path.stat().st_size for path in (tmp_path / "target").rglob("*") if path.is_file())
    assert written < 40 << 20


def test_an_archive_whose_unpacking_takes_what_memory_it_likes(tmp_path):
    """LZMA's header says how much, up to 4 GiB for a few bytes."""
    with zipfile.ZipFile(tmp_path / "raw.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", b"hello" * 100)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError) as caught:
        unpack(tmp_path / "raw.zip", tmp_path / "target")
    assert "'a.txt' is packed by method 14" in line_of(caught, tmp_path / "raw.zip")


def test_a_damaged_archive_inside_another_is_told_by_both_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("more.zip", b"hello")
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError) as caught:
        unpack(tmp_path / "raw.zip", tmp_path / "target")
    told = line_of(caught, tmp_path / "raw.zip")
    assert "raw.zip: inside it more.zip: cannot be unpacked" in told and str(tmp_path / "target") not in told


# Journals and recipes --------------------------------------------------------------------------------------------------

RECORD = {"source": "a.png", "stamp": [1, 2, 3], "name": "a", "files": ["masks/a.png"], "rows": [{"source": "a.png"}]}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        "{}",
        "[" * 3000,
        json.dumps(RECORD | {"name": "../../a"}),
        json.dumps(RECORD | {"files": ["/etc/passwd"]}),
        json.dumps(RECORD | {"rows": 3}),
        json.dumps({key: value for key, value in RECORD.items() if key != "stamp"}),
    ],
)
def test_a_damaged_line_of_a_journal_does_not_count(tmp_path, line):
    journal = Journal(tmp_path, 0)
    journal.folder.mkdir()
    journal.path.write_text(f"{line}\n{json.dumps(RECORD)}\n{line}\n")
    assert journal.finished() == {"a.png": RECORD}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; expected a number"),
        ({"num_train_epochs": [1]}, "num_train_epochs"),
        ({"task": "both"}, "--task is 'both'"),
        ({"eval_strategy": "sometimes"}, "sometimes"),
        ({"eval_strategy": "steps", "eval_steps": 5}, "load_best_model_at_end"),  # clashes with a default
        ({"seed": 1.5}, "seed is 1.5; expected a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"no_such": 1}, "holds ['no_such']"),
        ("[" * 3000, "not valid JSON"),
        ("\xff", "UTF-8"),
    ],
)
def test_a_recipe_that_is_wrong_is_named(tmp_path, content, reason):
    path = tmp_path / "mine.json"
    path.write_bytes(content.encode("latin-1") if isinstance(content, str) else json.dumps(content).encode())
    with pytest.raises(BadInputError) as caught:
        parse_arguments([str(path), "--dataset", "data", "--output_dir", str(tmp_path / "run")])
    assert reason in line_of(caught, path)


def test_a_flag_that_is_wrong_beside_a_good_recipe_is_named_itself(tmp_path):
    (tmp_path / "mine.json").write_text('{"seed": 1}')
    with pytest.raises(BadInputError) as caught:
        parse_arguments([str(tmp_path / "mine.json"), "--dataset", "data", "--output_dir", "run", "--task", "both"])
    assert str(caught.value).startswith("--task is 'both'")
