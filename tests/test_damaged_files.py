"""Whatever lies in a file, in its name or behind it, ends no run: one line names it, and the rest is done."""

import csv
import io
import json
import logging
import os
import struct
from pathlib import Path

import pyarrow.parquet
import pytest
from nifti_data import write_nifti
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from raw_data import random_volume, write_mask, write_metaimage, write_photograph, write_retouch_volume
from run_here import run_command


pytest.importorskip("pydicom")
SimpleITK = pytest.importorskip("SimpleITK")

from dicom_data import write_oct, write_series

from modeling_resformer.data import builder
from modeling_resformer.handler import EndpointHandler, RequestError
from modeling_resformer.prediction import case_loop, cases, en_face
from modeling_resformer.volumes import scan


ROOT = Path(__file__).parents[1]
SHAPE = (3, 20, 16)


def rows_of(output):
    with open(output / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def problems_of(output):
    problems = json.loads((output / "problems.json").read_text())
    assert all("\n" not in one["problem"] and len(one["problem"]) < 1000 for one in problems)
    return {Path(one["source"]).name: one["problem"] for one in problems}


def replaced(path, old, new):
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new, 1))


def with_damaged_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_volume((20, 16, 3))).save(path, "JPEG", exif=exif)
    replaced(path, b"MM\x00*", b"MM\x00\x01")


def without_dimensions(path):
    """A TIFF of two pages, of which the first tag of the second, its width, has another number."""
    pages = [Image.fromarray(page) for page in random_volume((2, 20, 16))]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    (second,) = struct.unpack_from("<I", content, first + 2 + 12 * entries)
    assert struct.unpack_from("<H", content, second + 2) == (256,)
    struct.pack_into("<H", content, second + 2, 250)
    path.write_bytes(content)


def of_unknown_pixels(path):
    Image.fromarray(random_volume((20, 16, 3))).save(path, "DDS")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 80, 0)
    path.write_bytes(content)


def dicom_of_unknown_types(path):
    write_oct(path, random_volume(SHAPE))
    replaced(path, b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00ZZ")


def dicom_of_odd_types(path):
    write_oct(path, random_volume(SHAPE))
    replaced(path, b"\x28\x00\x04\x00CS", b"\x28\x00\x04\x00SQ")


def dicom_of_endless_pixels(path):
    write_oct(path, random_volume(SHAPE), PixelSpacing=[1e200, 1e200], spacing=None, positions=False)


def nifti_from_infinity(path):
    write_nifti(path, random_volume(SHAPE))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 108, float("inf"))
    path.write_bytes(content)


def metaimage_with(**fields):
    return lambda path: write_metaimage(path, random_volume(SHAPE), **fields)


DAMAGED = {
    "types.dcm": (dicom_of_unknown_types, ""),
    "odd.dcm": (dicom_of_odd_types, ""),
    "vast.dcm": (dicom_of_endless_pixels, "expected lengths of 1e-06 to 1e+06"),
    "flat.tif": (without_dimensions, "Missing dimensions"),
    "exif.jpg": (with_damaged_exif, "not a TIFF file"),
    "pixels.dds": (of_unknown_pixels, "pixel format"),
    "offset.nii": (nifti_from_infinity, "vox_offset is inf, expected 352 or more"),
    "digits.mhd": (metaimage_with(DimSize="9" * 400 + " 20 3"), "DimSize is"),
    "turned.mhd": (metaimage_with(TransformMatrix="1e200 0 0 0 1e200 0 0 0 1"), "is no direction"),
    "far.mhd": (metaimage_with(Offset="1e200 0 0"), "expected lengths of"),
    "wide.mhd": (metaimage_with(ElementSpacing="1e200 1 1"), "expected lengths of"),
    "secret.mhd": (metaimage_with(ElementDataFile="/etc/hostname"), "points outside"),
}


def test_no_damaged_file_of_a_folder_stops_the_rest(predict, model, tmp_path):
    folder, output = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    for name, (write, _) in DAMAGED.items():
        write(folder / name)
    write_metaimage(folder / "good.mhd", random_volume(SHAPE))
    Image.fromarray(random_volume((20, 16, 3))).save(folder / "fine.png")
    assert predict([model, str(folder), "--output", str(output)]) == 1
    assert sorted(row["case_id"] for row in rows_of(output)) == ["fine", *["good"] * 3]
    assert len(pyarrow.parquet.read_table(output / "predictions.parquet")) == 4
    problems = problems_of(output)
    assert set(problems) == set(DAMAGED)
    for name, (_, reason) in DAMAGED.items():
        assert reason in problems[name] and str(folder / name) in problems[name]


def test_a_slice_that_cannot_be_sorted_leaves_its_series_alone(predict, model, tmp_path):
    write_series(tmp_path / "scan", random_volume(SHAPE, "uint16"), ImageOrientationPatient=None)
    dicom_of_unknown_types(tmp_path / "scan" / "z.dcm")
    assert predict([model, str(tmp_path / "scan"), "--output", str(tmp_path / "out")]) == 1
    assert len(rows_of(tmp_path / "out")) == 3 and set(problems_of(tmp_path / "out")) == {"z.dcm"}


def test_cosines_that_are_none_count_as_unsaid(predict, model, tmp_path):
    write_series(tmp_path / "scan", random_volume(SHAPE, "uint16"))
    for path in (tmp_path / "scan").iterdir():
        replaced(path, b"1.0\\0.0\\0.0\\0.0\\1.0\\0.0", b"1e200\\0\\0\\0\\1e200\\0    ")
    assert predict([model, str(tmp_path / "scan"), "--output", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out")
    image = SimpleITK.ReadImage(str(tmp_path / "out" / rows[0]["mask"]))
    assert len(rows) == 3 and image.GetSize() == SHAPE[::-1]
    assert [abs(round(cosine, 6)) for cosine in image.GetDirection()] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_a_name_that_is_no_utf_8(predict, model, tmp_path, capsys):
    folder, output = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    for name in ("caf\udce9.png", "caf\udcea.png"):
        Image.fromarray(random_volume((20, 16, 3))).save(os.fsencode(folder / name).decode(errors="surrogateescape"))
    (folder / "no\udce9.png").write_bytes(b"nothing")
    assert predict([model, str(folder), "--output", str(output)]) == 1
    rows = rows_of(output)
    assert [Path(row["source"]).name for row in rows] == ["caf\\udce9.png", "caf\\udcea.png"]
    assert [row["mask"] for row in rows] == ["masks/caf_.png", "masks/caf_-2.png"]
    assert all((output / row["mask"]).is_file() for row in rows)
    assert set(problems_of(output)) == {"no\\udce9.png"}
    assert "caf_" in capsys.readouterr().out
    capsys.readouterr()
    assert predict([model, str(folder), "--output", str(output)]) == 1
    assert " 0 of them now" in capsys.readouterr().out


def test_a_very_long_name(predict, model, tmp_path):
    path = tmp_path / f"{'ä' * 125}.png"
    Image.fromarray(random_volume((20, 16, 3))).save(path)
    assert predict([model, str(path), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / rows_of(tmp_path / "out")[0]["mask"]).is_file()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("nought"), RecursionError("deep"), RuntimeError("strange\nthing")]
)
@pytest.mark.parametrize(
    ("module", "name", "bad"),
    [
        (cases, "open_image", "a.png"),
        (case_loop, "overlay_image", "a.png"),
        (scan, "read_metaimage", "a.mhd"),
        (scan, "write_volume", "a.mhd"),
        (en_face, "draw_en_face", "a.mhd"),
    ],
)
def test_what_nobody_foresaw_in_one_case_is_a_line_and_its_traceback_is_kept(
    predict, model, tmp_path, monkeypatch, caplog, module, name, bad, error
):
    good = "b" + bad[1:]
    for file in (bad, good):
        path = tmp_path / file
        write_metaimage(path, random_volume(SHAPE)) if path.suffix == ".mhd" else write_photograph(path)
    whole, calls = getattr(module, name), []

    def broken(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise error
        return whole(*arguments, **options)

    monkeypatch.setattr(module, name, broken)
    caplog.set_level(logging.DEBUG, logger="modeling_resformer.prediction.case_loop")
    inputs = [str(tmp_path / bad), str(tmp_path / good)]
    assert predict([model, *inputs, "--output", str(tmp_path / "out"), "--cpu-threads", "1"]) == 1
    assert {Path(row["source"]).name for row in rows_of(tmp_path / "out")} == {good}
    line = problems_of(tmp_path / "out")[bad]
    assert line.startswith(f"{inputs[0]}: cannot be used ({type(error).__name__}: ")
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)


# Links -----------------------------------------------------------------------------------------------------------------


def test_links_in_a_folder_lead_nowhere_else(predict, model, tmp_path):
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    secret.mkdir()
    write_metaimage(secret / "a.mha", random_volume(SHAPE), ElementDataFile="LOCAL")
    with open(secret / "a.mha", "ab") as file:
        file.write(random_volume(SHAPE).tobytes())
    write_nifti(secret / "b.nii", random_volume(SHAPE))
    paths = write_series(secret / "c", random_volume(SHAPE, "uint16"))
    pages = [Image.fromarray(page) for page in random_volume(SHAPE)]
    pages[0].save(secret / "d.tif", save_all=True, append_images=pages[1:])
    write_photograph(secret / "e.png")
    write_photograph(folder / "inside" / "f.png")
    (folder / "f.png").symlink_to(folder / "inside" / "f.png")
    linked = [secret / "a.mha", secret / "b.nii", secret / "d.tif", secret / "e.png", *paths]
    for path in linked:
        (folder / path.name).symlink_to(path)
    assert predict([model, str(folder), "--output", str(tmp_path / "out")]) == 1
    assert [Path(row["source"]).name for row in rows_of(tmp_path / "out")] == ["f.png"]
    problems = problems_of(tmp_path / "out")
    assert set(problems) == {path.name for path in linked}
    assert all("is a link that leads out of its folder" in line for line in problems.values())
    # Named by the user, the same links are the user's own choice.
    assert predict([model, str(folder / "a.mha"), str(folder / "e.png"), "--output", str(tmp_path / "own")]) == 0


def prepare(command, source, output, *options):
    return run_command(command, "--source", source, "--output", output, *options)


def test_a_header_or_link_in_a_prepared_source_leads_nowhere_else(tmp_path):
    source, output = tmp_path / "RETOUCH", tmp_path / "out"
    for number in (1, 2, 3):
        write_retouch_volume(source / "Cirrus" / f"TRAIN00{number}")
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"S" * (6 * 32 * 24))
    header = source / "Cirrus" / "TRAIN001" / "oct.mhd"
    header.write_text(header.read_text().replace("ElementDataFile", f"ElementDataFile : {secret}\nElementDataFile"))
    reference = source / "Cirrus" / "TRAIN002" / "reference.raw"
    reference.unlink()
    reference.symlink_to(secret)
    assert prepare("prepare_retouch", source, output, "--on-error", "skip", "--validation-volumes", "0") == 0
    skipped = json.loads((output / "report.json").read_text())["skipped"]
    assert {one["case_id"] for one in skipped} == {"TRAIN001", "TRAIN002", "reference"}
    assert b"S" * 24 not in b"".join(path.read_bytes() for path in output.rglob("*.arrow"))


# Preparing and serving -------------------------------------------------------------------------------------------------


def small_folder(tmp_path):
    for name in "abc":
        write_photograph(tmp_path / "mine" / "images" / f"{name}.png")
        write_mask(tmp_path / "mine" / "masks" / f"{name}.png")
    return tmp_path / "mine"


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_what_nobody_foresaw_while_data_are_prepared(tmp_path, monkeypatch, capsys, on_error):
    source, output, load, seen = small_folder(tmp_path), tmp_path / "out", PngImageFile.load, []

    def broken(self):
        if self.mode == "RGB" and not seen:
            seen.append(self)
            raise ZeroDivisionError("nought")
        return load(self)

    def crooked(path, *more):
        if path.stem == "b":
            raise RecursionError("deep")
        return store_image(path, *more)

    store_image = builder.store_image
    monkeypatch.setattr(PngImageFile, "load", broken)
    monkeypatch.setattr(builder, "store_image", crooked)
    options = ["--mask-values", "0=background,255=lesion", "--on-error", on_error]
    status = prepare("prepare_folder", source, output, *options)
    images = source / "images"
    lines = [
        f"{images / 'a.png'}: no decoder takes it (nought); replace the file",
        f"{images / 'b.png'}: cannot be used (RecursionError: deep); replace the file",
    ]
    if on_error == "raise":
        assert status == 1 and f"\nerror: {lines[0]}" in capsys.readouterr().err
        assert not output.exists()
    else:
        assert status == 0
        skipped = json.loads((output / "report.json").read_text())["skipped"]
        assert [(one["case_id"], one["problem"]) for one in skipped] == [("a", lines[0]), ("b", lines[1])]


def test_the_handler_refuses_a_image_with_damaged_exif_data(tmp_path):
    handler = EndpointHandler(str(ROOT / "hub_cards" / "resformer-lite-isic2017"), trust_remote_code=False)
    with_damaged_exif(tmp_path / "a.jpg")
    with pytest.raises(RequestError, match=r"EXIF data are damaged|not a TIFF file") as error:
        handler({"inputs": (tmp_path / "a.jpg").read_bytes()})
    assert error.value.status == 400
    with Image.open(io.BytesIO((tmp_path / "a.jpg").read_bytes())) as image, pytest.raises(RequestError) as error:
        handler({"inputs": image})
    assert error.value.status == 400
