"""Planted leaks are found with the kind they have, honest data give none, and the script's status tells."""

import csv
import importlib.util
import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image


pytest.importorskip("imagehash")

from modeling_resformer.data.columns import dataset_features
from modeling_resformer.data.leakage import find_matches, prepared_parts


ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "isic2017_sample"
PICTURES = sorted((SAMPLE / "ISIC-2017_Training_Data").glob("*.jpg"))


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_leakage = load_script("check_leakage")


def encode(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def split_of(pictures):
    """Makes a split from (case id, picture bytes) pairs."""
    rows = [
        {
            "image": {"bytes": data, "path": None},
            "mask": None,
            "class_labels": [],
            "class_labels_unknown": [],
            "case_id": case_id,
            "slice_index": i,
            "source": "test",
            "spacing": None,
            "original_size": [256, 256],
            "mask_classes": None,
        }
        for i, (case_id, data) in enumerate(pictures)
    ]
    return datasets.Dataset.from_list(rows, features=dataset_features(["background"], ["a"]))


def originals(start, stop):
    return [(path.stem, path.read_bytes()) for path in PICTURES[start:stop]]


def kinds(matches):
    return [(match.kind, match.is_leak, match.first.case_id, match.second.case_id) for match in matches]


def test_honest_splits_share_nothing():
    assert find_matches({"train": split_of(originals(0, 40)), "test": split_of(originals(40, 60))}) == []


def test_every_kind_of_leak_is_found():
    opened = [Image.open(path) for path in PICTURES[:4]]
    test = [
        (PICTURES[0].stem, PICTURES[30].read_bytes()),  # the same case, another picture
        ("renamed", encode(opened[1], format="PNG")),  # the same pixels in another file format
        ("resaved", encode(opened[2], format="JPEG", quality=40)),
        ("brighter", encode(opened[3].point(lambda value: min(value + 15, 255)).resize((200, 200)), format="PNG")),
        ("honest", PICTURES[31].read_bytes()),
    ]
    found = kinds(find_matches({"train": split_of(originals(0, 10)), "test": split_of(test)}))
    assert found[0] == ("same_case", True, PICTURES[0].stem, PICTURES[0].stem)
    assert found[1] == ("identical", True, PICTURES[1].stem, "renamed")
    assert sorted(found[2:]) == sorted(
        [
            ("near_duplicate", True, PICTURES[2].stem, "resaved"),
            ("near_duplicate", True, PICTURES[3].stem, "brighter"),
        ]
    )


def test_duplicates_within_a_part_are_told_apart_from_leaks():
    train = [*originals(0, 5), ("twin", PICTURES[0].read_bytes())]
    assert kinds(find_matches({"train": split_of(train)})) == [("identical", False, PICTURES[0].stem, "twin")]


def test_slices_of_one_case_may_look_alike():
    data = PICTURES[0].read_bytes()
    assert find_matches({"train": split_of([("volume", data), ("volume", data)])}) == []


def test_sixteen_bit_pictures_are_compared_at_full_depth():
    base = np.random.default_rng(0).integers(0, 65535, (64, 64), dtype=np.uint16)
    base = np.sort(base, axis=0)
    changed = base.copy()
    changed[5, 5] ^= 1
    same, nearly = (encode(Image.fromarray(samples), format="PNG") for samples in (base, changed))
    found = find_matches({"train": split_of([("a", same)]), "test": split_of([("b", same), ("c", nearly)])})
    assert kinds(found)[:2] == [("identical", True, "a", "b"), ("near_duplicate", True, "a", "c")]


def test_blocks_do_not_change_the_result(monkeypatch):
    from modeling_resformer.data import leakage

    parts = {"train": split_of(originals(0, 20)), "test": split_of([("twin", PICTURES[19].read_bytes())])}
    whole = find_matches(parts)
    monkeypatch.setattr(leakage, "BLOCK", 3)
    assert find_matches(parts) == whole
    assert len(whole) == 1


def test_parts_of_two_datasets_are_named():
    one = datasets.DatasetDict({"train": split_of(originals(0, 2))})
    assert list(prepared_parts({"a": one})) == ["train"]
    assert list(prepared_parts({"a": one, "b": one})) == ["a:train", "b:train"]


def test_the_script_lists_draws_and_fails_on_demand(tmp_path, capsys):
    leaking = datasets.DatasetDict(
        {"train": split_of(originals(0, 6)), "test": split_of([("twin", PICTURES[0].read_bytes())])}
    )
    leaking.save_to_disk(tmp_path / "leaking")
    clean = datasets.DatasetDict({"train": split_of(originals(10, 12)), "test": split_of(originals(12, 14))})
    clean.save_to_disk(tmp_path / "clean")
    arguments = [str(tmp_path / "leaking"), "--output", str(tmp_path / "out")]
    assert check_leakage.main(arguments) == 0
    assert check_leakage.main([*arguments, "--fail"]) == 3
    assert "leak: 1 x identical" in capsys.readouterr().out
    with open(tmp_path / "out" / "leakage.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["kind"], row["first_case_id"], row["second_part"]) == ("identical", PICTURES[0].stem, "test")
    assert Image.open(tmp_path / "out" / "leakage.png").height > 300
    assert check_leakage.main([str(tmp_path / "clean"), "--output", str(tmp_path / "none"), "--fail"]) == 0
    assert "nothing is shared" in capsys.readouterr().out
    pair = [str(tmp_path / "leaking"), str(tmp_path / "clean"), "--output", str(tmp_path / "pair"), "--fail"]
    assert check_leakage.main(pair) == 3
    assert check_leakage.main([str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
