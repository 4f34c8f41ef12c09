"""Zip archives: the honest ones give the same rows as their folder, the others are refused before anything is written."""

import io
import os
import shutil
import stat
import zipfile

import pytest
from raw_data import write_csv, write_isic, write_retouch_volume


pytest.importorskip("datasets")
pytest.importorskip("SimpleITK")

from datasets import load_from_disk
from run_here import run_command

from modeling_resformer.data import archives
from modeling_resformer.data.archives import unpack
from modeling_resformer.errors import BadInputError


def zip_folder(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + str(file.relative_to(folder)))


def same_rows(a, b):
    first, second = load_from_disk(a), load_from_disk(b)
    return all(
        first[split]
        .remove_columns("file_name")
        .data.table.equals(second[split].remove_columns("file_name").data.table)
        for split in first
    )


def test_a_zip_gives_the_rows_of_its_folder(tmp_path):
    write_isic(tmp_path / "raw")
    zip_folder(tmp_path / "raw", tmp_path / "raw.zip", "ISIC 2017/")
    assert run_command("prepare_isic2017", "--source", tmp_path / "raw", "--output", tmp_path / "a") == 0
    assert run_command("prepare_isic2017", "--source", tmp_path / "raw.zip", "--output", tmp_path / "b") == 0
    assert same_rows(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "raw", "raw.zip"]


def test_a_folder_of_zips_as_downloaded(tmp_path):
    write_isic(tmp_path / "raw")
    (tmp_path / "downloads").mkdir()
    for folder in (path for path in (tmp_path / "raw").iterdir() if path.is_dir()):
        zip_folder(folder, tmp_path / "downloads" / f"{folder.name}.zip", f"{folder.name}/")
    for table in (tmp_path / "raw").glob("*.csv"):
        shutil.copy(table, tmp_path / "downloads")
    assert run_command("prepare_isic2017", "--source", tmp_path / "raw", "--output", tmp_path / "a") == 0
    assert run_command("prepare_isic2017", "--source", tmp_path / "downloads", "--output", tmp_path / "b") == 0
    assert same_rows(tmp_path / "a", tmp_path / "b")


def test_zips_inside_a_zip(tmp_path):
    write_retouch_volume(tmp_path / "raw" / "RETOUCH-TrainingSet-Cirrus" / "TRAIN001")
    (tmp_path / "inner").mkdir()
    zip_folder(tmp_path / "raw", tmp_path / "inner" / "TrainingCirrus.zip")
    zip_folder(tmp_path / "inner", tmp_path / "retouch.zip")
    assert run_command("prepare_retouch", "--source", tmp_path / "retouch.zip", "--output", tmp_path / "out") == 0
    assert set(load_from_disk(tmp_path / "out")["train"]["vendor"]) == {"Cirrus"}


def test_an_error_inside_names_the_archive(tmp_path, capsys):
    write_isic(tmp_path / "raw")
    (tmp_path / "raw" / "ISIC-2017_Training_Data" / "ISIC_0000001.jpg").write_bytes(b"no image")
    zip_folder(tmp_path / "raw", tmp_path / "raw.zip")
    assert run_command("prepare_isic2017", "--source", tmp_path / "raw.zip", "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path / 'raw.zip'}/raw/ISIC-2017_Training_Data/ISIC_0000001.jpg: no decoder")


def write_zip(path, name, data=b"x", mode=0):
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_escaping_paths(tmp_path, name):
    write_zip(tmp_path / "raw.zip", name)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError, match="would land outside"):
        unpack(tmp_path / "raw.zip", tmp_path / "target")
    assert not list(tmp_path.rglob("*evil*"))


def test_a_link_inside(tmp_path):
    write_zip(tmp_path / "raw.zip", "images", b"/etc", stat.S_IFLNK | 0o777)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError, match="'images' is a link"):
        unpack(tmp_path / "raw.zip", tmp_path / "target")


def test_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BOMB_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.raw", bytes(8 << 20))
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError, match="claim to unpack to 8388608: a zip bomb"):
        unpack(tmp_path / "raw.zip", tmp_path / "target")
    assert not list((tmp_path / "target").rglob("*.raw"))


def test_an_archive_larger_than_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    write_zip(tmp_path / "raw.zip", "a")
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError, match="needs 1 bytes unpacked, 0 are free"):
        unpack(tmp_path / "raw.zip", tmp_path / "target")


def test_nesting_has_an_end(tmp_path):
    data = b"x"
    for depth in range(4):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.zip" if depth else "a.txt", data)
        data = buffer.getvalue()
    (tmp_path / "raw.zip").write_bytes(data)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError, match="nested deeper than 2"):
        unpack(tmp_path / "raw.zip", tmp_path / "target")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text"])
def test_a_damaged_archive(tmp_path, capsys, damage):
    write_isic(tmp_path / "raw")
    zip_folder(tmp_path / "raw", tmp_path / "raw.zip")
    data = bytearray((tmp_path / "raw.zip").read_bytes())
    if damage == "flipped":
        data[200:220] = bytes(20)
    (tmp_path / "raw.zip").write_bytes({"truncated": data[:-100], "flipped": data, "text": b"hello"}[damage])
    assert run_command("prepare_isic2017", "--source", tmp_path / "raw.zip", "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "raw.zip") in error
    assert sorted(os.listdir(tmp_path)) == ["raw", "raw.zip"]


def test_an_encrypted_archive(tmp_path):
    write_zip(tmp_path / "raw.zip", "a")
    data = bytearray((tmp_path / "raw.zip").read_bytes())
    data[6] |= 1  # local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # central directory
    (tmp_path / "raw.zip").write_bytes(data)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInputError, match="is encrypted"):
        unpack(tmp_path / "raw.zip", tmp_path / "target")


def test_zips_beside_unpacked_folders_are_left_alone(tmp_path):
    write_isic(tmp_path / "raw")
    write_zip(tmp_path / "raw" / "old.zip", "../evil.txt")
    assert unpack(tmp_path / "raw", tmp_path) == tmp_path / "raw"


def test_another_file_is_no_source(tmp_path):
    write_csv(tmp_path / "raw.csv", [["a"]])
    with pytest.raises(BadInputError, match="neither a folder nor a zip"):
        unpack(tmp_path / "raw.csv", tmp_path)
