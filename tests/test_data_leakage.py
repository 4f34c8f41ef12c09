"""Planted leaks are found with the kind they have, honest data give none, and the script's status tells."""

import csv
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image


pytest.importorskip("imagehash")

from published_run import made_up_record, made_up_results, write_run
from raw_data import random_volume, write_csv, write_metaimage

from modeling_resformer.commands import check_leakage, prepare_folder, prepare_retouch
from modeling_resformer.data.columns import dataset_features
from modeling_resformer.data.leakage import compare, find_matches, linked_cases, prepared_splits, summarise
from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.training.run_record import describe_dataset


ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "isic2017_sample"
IMAGES = sorted((SAMPLE / "ISIC-2017_Training_Data").glob("*.jpg"))


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def split_of(images):
    """Makes a split from (case id, image bytes) pairs."""
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
        for i, (case_id, data) in enumerate(images)
    ]
    return datasets.Dataset.from_list(rows, features=dataset_features(["background"], ["a"]))


def originals(start, stop):
    return [(path.stem, path.read_bytes()) for path in IMAGES[start:stop]]


def kinds(matches):
    return [(match.kind, match.is_leak, match.first.case_id, match.second.case_id) for match in matches]


def test_honest_splits_share_nothing():
    assert find_matches({"train": split_of(originals(0, 40)), "test": split_of(originals(40, 60))}) == []


def test_every_kind_of_leak_is_found():
    opened = [Image.open(path) for path in IMAGES[:4]]
    test = [
        (IMAGES[0].stem, IMAGES[30].read_bytes()),  # the same case, another image
        ("renamed", encode(opened[1], format="PNG")),  # the same pixels in another file format
        ("resaved", encode(opened[2], format="JPEG", quality=40)),
        ("brighter", encode(opened[3].point(lambda value: min(value + 15, 255)).resize((200, 200)), format="PNG")),
        ("honest", IMAGES[31].read_bytes()),
    ]
    found = kinds(find_matches({"train": split_of(originals(0, 10)), "test": split_of(test)}))
    assert found[0] == ("same_case", True, IMAGES[0].stem, IMAGES[0].stem)
    assert found[1] == ("identical", True, IMAGES[1].stem, "renamed")
    assert sorted(found[2:]) == sorted(
        [
            ("near_duplicate", True, IMAGES[2].stem, "resaved"),
            ("near_duplicate", True, IMAGES[3].stem, "brighter"),
        ]
    )


def test_duplicates_within_a_part_are_told_apart_from_leaks():
    train = [*originals(0, 5), ("twin", IMAGES[0].read_bytes())]
    assert kinds(find_matches({"train": split_of(train)})) == [("identical", False, IMAGES[0].stem, "twin")]


def test_slices_of_one_case_may_look_alike():
    data = IMAGES[0].read_bytes()
    assert find_matches({"train": split_of([("volume", data), ("volume", data)])}) == []


def test_sixteen_bit_images_are_compared_at_full_depth():
    base = np.random.default_rng(0).integers(0, 65535, (64, 64), dtype=np.uint16)
    base = np.sort(base, axis=0)
    changed = base.copy()
    changed[5, 5] ^= 1
    same, nearly = (encode(Image.fromarray(samples), format="PNG") for samples in (base, changed))
    found = find_matches({"train": split_of([("a", same)]), "test": split_of([("b", same), ("c", nearly)])})
    assert kinds(found)[:2] == [("identical", True, "a", "b"), ("near_duplicate", True, "a", "c")]


def test_blocks_do_not_change_the_result(monkeypatch):
    from modeling_resformer.data import leakage

    splits = {"train": split_of(originals(0, 20)), "test": split_of([("twin", IMAGES[19].read_bytes())])}
    whole = find_matches(splits)
    monkeypatch.setattr(leakage, "BLOCK", 3)
    assert find_matches(splits) == whole
    assert len(whole) == 1


def test_parts_of_two_datasets_are_named():
    one = datasets.DatasetDict({"train": split_of(originals(0, 2))})
    assert list(prepared_splits({"a": one})) == ["train"]
    assert list(prepared_splits({"a": one, "b": one})) == ["a:train", "b:train"]


def test_the_script_lists_draws_and_fails_on_demand(tmp_path, capsys):
    leaking = datasets.DatasetDict(
        {"train": split_of(originals(0, 6)), "test": split_of([("twin", IMAGES[0].read_bytes())])}
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
    assert (row["kind"], row["first_case_id"], row["second_part"]) == ("identical", IMAGES[0].stem, "test")
    assert Image.open(tmp_path / "out" / "leakage.png").height > 300
    assert check_leakage.main([str(tmp_path / "clean"), "--output", str(tmp_path / "none"), "--fail"]) == 0
    assert "nothing is shared" in capsys.readouterr().out
    pair = [str(tmp_path / "leaking"), str(tmp_path / "clean"), "--output", str(tmp_path / "pair"), "--fail"]
    assert check_leakage.main(pair) == 3
    assert check_leakage.main([str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_a_image_of_one_colour_shows_nothing_to_recognise():
    blank = encode(Image.new("L", (64, 64), 7), format="PNG")
    assert find_matches({"train": split_of([("a", blank)]), "test": split_of([("b", blank)])}) == []


def test_counts_by_split_and_groups_by_way_of_others():
    first, second = Image.open(IMAGES[0]), Image.open(IMAGES[1])
    test = [
        ("copy", encode(first, format="PNG")),
        ("resaved", encode(first, format="JPEG", quality=40)),
        ("other", encode(second, format="JPEG", quality=40)),
    ]
    compared = compare({"train": split_of(originals(0, 5)), "test": split_of(test)})
    counts, pairs = summarise(compared)
    assert counts["across_splits"] == {"identical": 1, "near_duplicate": 2}
    assert counts["within_splits"] == {"identical": 0, "near_duplicate": 1}
    assert counts["pictures"] == {"train": 2, "test": 3}
    assert kinds(pairs)[0] == ("identical", True, IMAGES[0].stem, "copy")
    assert sorted(map(sorted, linked_cases(compared))) == sorted(
        [sorted([IMAGES[0].stem, "copy", "resaved"]), sorted([IMAGES[1].stem, "other"])]
    )


def write_copies(root, copies=8):
    """Twenty photographs, and the first ones once more as other cases, saved anew."""
    (root / "images").mkdir(parents=True)
    for path in IMAGES[:20]:
        (root / "images" / path.name).write_bytes(path.read_bytes())
    for path in IMAGES[:copies]:
        Image.open(path).save(root / "images" / f"copy_{path.stem}.jpg", quality=40)
    return root


def prepare(root, output, *flags):
    arguments = ["--source", root, "--output", output, *flags]
    assert prepare_folder.main([str(argument) for argument in arguments]) == 0
    return load_prepared(output), json.loads((output / "report.json").read_text())


def test_the_preparation_counts_prints_and_records_what_given_splits_share(tmp_path, capsys):
    root = write_copies(tmp_path / "raw", copies=3)
    splits = [[path.stem, "train"] for path in IMAGES[:10]] + [[path.stem, "validation"] for path in IMAGES[10:20]]
    splits += [[f"copy_{path.stem}", "test"] for path in IMAGES[:3]]
    write_csv(tmp_path / "splits.csv", [["case_id", "split"], *splits])
    prepared, report = prepare(root, tmp_path / "out", "--splits", tmp_path / "splits.csv")
    assert "near-duplicates across splits: 3 pairs\n" in capsys.readouterr().out
    assert report["near_duplicates"]["across_splits"] == {"identical": 0, "near_duplicate": 3}
    assert prepared.metadata["near_duplicates"]["pictures"] == {"train": 3, "validation": 0, "test": 3}
    assert any("3 in train, 3 in test" in warning for warning in report["warnings"])
    assert "near-duplicates across splits: 3 pairs" in (tmp_path / "out" / "report.md").read_text()
    with open(tmp_path / "out" / "leakage.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["second_case_id"] for row in rows} == {f"copy_{path.stem}" for path in IMAGES[:3]}
    assert describe_dataset(prepared, "out")["near_duplicates"] == prepared.metadata["near_duplicates"]

    prepared, report = prepare(root, tmp_path / "unchecked", "--splits", tmp_path / "splits.csv", "--no-leakage-check")
    assert "near-duplicates across splits: not checked" in capsys.readouterr().out
    assert prepared.metadata["near_duplicates"] is report["near_duplicates"] is None
    assert not (tmp_path / "unchecked" / "leakage.csv").exists()


def test_near_duplicates_are_drawn_together(tmp_path):
    root = write_copies(tmp_path / "raw")
    draw = ["--test-fraction", "0.25", "--validation-fraction", "0.25"]
    plain, report = prepare(root, tmp_path / "plain", *draw)
    assert report["near_duplicates"]["across_splits"]["near_duplicate"] > 0
    grouped, report = prepare(root, tmp_path / "grouped", *draw, "--group-near-duplicates")
    assert report["near_duplicates"]["across_splits"] == {"identical": 0, "near_duplicate": 0}
    assert report["near_duplicates"]["groups"] == {"number": 8, "largest": 2}
    split_of_case = {case_id: name for name, split in grouped.dataset.items() for case_id in split["case_id"]}
    for path in IMAGES[:8]:
        assert split_of_case[path.stem] == split_of_case[f"copy_{path.stem}"]
    # Eight pairs and twelve single cases, a quarter of each.
    assert {name: len(split) for name, split in grouped.dataset.items()} == {"train": 14, "validation": 7, "test": 7}
    assert "near-duplicates kept together" in grouped.metadata["split_rule"]

    def contents(prepared):
        return {row["case_id"]: row["image"].tobytes() for split in prepared.dataset.values() for row in split}

    assert contents(grouped) == contents(plain)


def test_bars_are_those_of_reading_hashing_and_comparing(tmp_path, capfd):
    root = write_copies(tmp_path / "raw", copies=3)
    flags = ["--test-fraction", "0.3", "--validation-fraction", "0.2", "--group-near-duplicates", "--parquet"]
    assert prepare_folder.main(["--source", str(root), "--output", str(tmp_path / "out"), *flags]) == 0
    shown = capfd.readouterr().err
    for bar in ("Generating train split", "Hashing train", "Comparing images"):
        assert bar in shown
    for bar in ("Flattening", "Saving the dataset", "Checking", "Creating parquet"):
        assert bar not in shown
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the split is given and stays as it is"),
        (["--splits", "splits.csv", "--test-fraction", "0.5"], "the split is given and stays as it is"),
        (["--test-fraction", "0.5", "--no-leakage-check"], "--no-leakage-check leaves out"),
    ],
)
def test_given_splits_are_not_regrouped(tmp_path, capsys, flags, message):
    arguments = ["--source", str(tmp_path), "--output", str(tmp_path / "out"), "--group-near-duplicates", *flags]
    assert prepare_folder.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_volumes_are_compared_across_cases_and_not_with_the_unlabelled(tmp_path):
    voxels = random_volume((3, 32, 24))
    voxels[1], voxels[2] = voxels[0], 0  # a slice like its neighbour, and a blank one
    for number in (1, 5):
        folder = tmp_path / "raw" / "Cirrus" / f"TRAIN{number:03d}"
        write_metaimage(folder / "oct.mhd", voxels)
        write_metaimage(folder / "reference.mhd", np.zeros_like(voxels))
    write_metaimage(tmp_path / "raw" / "TestSet" / "Cirrus" / "TEST001" / "oct.mhd", voxels)
    split = [["TRAIN001", "train"], ["TRAIN005", "test"], ["TEST001", "unlabelled"]]
    write_csv(tmp_path / "splits.csv", [["case_id", "split"], *split])
    arguments = ["--source", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    arguments += ["--splits", str(tmp_path / "splits.csv")]
    assert prepare_retouch.main(arguments) == 0
    found = load_prepared(tmp_path / "out")
    assert len(found.dataset["unlabelled"]) == 3
    # Two equal slices of one volume against two of the other.
    assert found.metadata["near_duplicates"]["across_splits"] == {"identical": 4, "near_duplicate": 0}
    assert found.metadata["near_duplicates"]["within_splits"] == {"identical": 0, "near_duplicate": 0}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "training or selection (near-duplicates: not checked)"),
        (
            {"pictures": {"train": 3, "test": 4}},
            "training or selection, though 4 of them have near-duplicates that did",
        ),
        ({"pictures": {"train": 0, "test": 0}}, "training or selection, nor did near-duplicates of them"),
    ],
)
def test_the_card_says_how_many_tested_images_have_near_duplicates(tmp_path, found, words):
    record = made_up_record()
    record["dataset"] |= {} if found is None else {"near_duplicates": found}
    run = write_run(tmp_path / "run", results=made_up_results(), record=record, weights=False)
    assert read_facts(run).kept_apart == f"which took no part in {words}"
