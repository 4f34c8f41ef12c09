"""Parquet, card and push: what the Hub gets can be read back, and gated data never get there by accident."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from raw_data import random_volume, write_isic, write_retouch_volume


pytest.importorskip("SimpleITK")
pytest.importorskip("datasets")

from datasets import load_dataset, load_from_disk
from huggingface_hub import DatasetCard
from run_here import run_command

from modeling_resformer.data import dataset_repository
from modeling_resformer.data.dataset_repository import size_category, write_card
from modeling_resformer.errors import BadInputError


ROOT = Path(__file__).parents[1]


def test_a_pushed_dataset_comes_back_by_name(tmp_path, hub):
    write_isic(tmp_path / "raw")
    hub.repositories["org/isic"] = {"private": False, "gated": False, "files": {}}  # public already: must not stay so
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "out", "--push-to-hub", "org/isic")
    assert run_command("prepare_isic2017", *arguments) == 0
    repository = hub.repositories["org/isic"]
    assert repository["private"] is True
    expected = {"README.md", "resformer.json", "splits.csv", "data/train-00000-of-00001.parquet"}
    assert expected <= set(repository["files"])
    code = (
        "from datasets import load_dataset; d = load_dataset('org/isic', split='train');"
        "print(d.features['mask_classes'].feature.names, list(d['class_labels']), d[0]['image'].size)"
    )
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    settings["HF_HUB_DISABLE_XET"] = "1"
    pulled = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    assert pulled.stdout.strip() == "['background', 'lesion'] [[0], [1], [2]] (40, 30)", pulled.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "gated and may not be redistributed"),
        (("--agreement-allows-sharing", "--public"), "never pushed --public"),
    ],
)
def test_retouch_is_refused_without_a_statement_before_any_work(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setattr(
        dataset_repository, "HfApi", None
    )  # any contact with the Hub would fail otherwise than expected
    write_retouch_volume(tmp_path / "raw" / "Cirrus" / "TRAIN001")
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "out", "--push-to-hub", "org/retouch")
    assert run_command("prepare_retouch", *arguments, *options) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_retouch_is_private_and_gated_before_the_first_file(tmp_path, hub):
    write_retouch_volume(tmp_path / "raw" / "Spectralis" / "TRAIN025", dtype="uint16")
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "out", "--push-to-hub", "org/retouch")
    assert run_command("prepare_retouch", *arguments, "--agreement-allows-sharing") == 0
    repository = hub.repositories["org/retouch"]
    assert (repository["private"], repository["gated"]) == (True, "manual")
    paths = [path for _, path in hub.calls]
    gated = next(i for i, path in enumerate(paths) if path.endswith("/settings"))
    uploaded = next(i for i, path in enumerate(paths) if "/preupload/" in path or path.startswith("/upload/"))
    assert gated < uploaded
    card = DatasetCard(repository["files"]["README.md"].decode())
    assert "I hold a signed RETOUCH agreement and use the data within it" in card.data.to_dict()["extra_gated_fields"]


def test_an_unreachable_hub_keeps_the_result_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    write_isic(tmp_path / "raw")
    arguments = ("--source", tmp_path / "raw", "--output", tmp_path / "out", "--push-to-hub", "org/isic")
    assert run_command("prepare_isic2017", *arguments) == 1
    assert "is complete but was not pushed to org/isic" in capsys.readouterr().err.splitlines()[-1]
    assert len(load_from_disk(tmp_path / "out")["train"]) == 3


def test_sixteen_bit_images_get_a_preview_and_stay_as_they_are(tmp_path):
    write_retouch_volume(tmp_path / "raw" / "Spectralis" / "TRAIN025", (3, 16, 12), "uint16")
    write_retouch_volume(tmp_path / "raw" / "Cirrus" / "TRAIN001", (3, 16, 12))
    assert run_command("prepare_retouch", "--source", tmp_path / "raw", "--output", tmp_path / "out", "--parquet") == 0
    assert "preview" not in load_from_disk(tmp_path / "out")["train"].features
    rows = load_dataset("parquet", data_files=str(tmp_path / "out/parquet/data/*.parquet"), split="train")
    deep = {row["slice_index"]: row for row in rows if row["vendor"] == "Spectralis"}
    voxels = random_volume((3, 16, 12), "uint16")
    for index, image in enumerate(voxels):
        np.testing.assert_array_equal(np.asarray(deep[index]["image"]), image)
        shown = np.asarray(deep[index]["preview"]).astype(float)
        stretched = (image - image.min().astype(float)) / (image.max() - image.min()) * 255
        assert np.abs(shown - stretched).max() <= 1
    assert all(row["preview"] is None for row in rows if row["vendor"] == "Cirrus")


@pytest.mark.parametrize("name", ["isic2017", "retouch", "folder"])
def test_every_card_fills_in_and_its_header_is_valid(tmp_path, name):
    metadata = {
        "num_rows": {"train": 1400, "test": 600},
        "mask_classes": ["background", "lesion"],
        "class_labels": ["melanoma", "nevus"],
        "split_rule": "as given",
        "mask_resolution": [224, 224],
        "source_fingerprint": "abc",
    }
    report = {
        "splits": {
            "train": {
                "rows": 1400,
                "cases": 1400,
                "class_counts": {"melanoma": 300, "nevus": 1100},
                "no_class": 0,
                "unlabelled": 0,
                "without_mask": 0,
                "rows_with_mask_class": {"lesion": 1400},
                "share_of_pixels": {"background": 0.8, "lesion": 0.2},
            }
        },
        "groups": {},
        "volumes": {},
        "skipped": [],
        "warnings": [],
    }
    write_card(tmp_path, ROOT / "hub_cards" / f"dataset_card_{name}.md", metadata, report)
    text = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train-*"},
        {"split": "test", "path": "data/test-*"},
    ]
    assert header["size_categories"] == ["1K<n<10K"]
    assert "0 background, 1 lesion" in text
    assert "| train | 1400 | 1400 | 300 (21.4%) | 1100 (78.6%)" in text
    assert "$" not in text


def test_a_card_template_that_is_missing(tmp_path):
    with pytest.raises(BadInputError, match="no such dataset card template"):
        write_card(tmp_path, tmp_path / "nowhere.md", {}, {})


def test_large_splits_are_cut_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_repository, "SHARD_BYTES", 2000)
    write_isic(tmp_path / "raw", diagnoses=("00",) * 7)
    from modeling_resformer.data import Isic2017

    builder = Isic2017(data_dir=tmp_path / "raw", cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    dataset = builder.as_dataset()
    dataset_repository.write_parquet(dataset, tmp_path / "parquet")
    files = sorted((tmp_path / "parquet" / "data").iterdir())
    assert len(files) > 1
    rows = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    assert rows["case_id"] == dataset["train"]["case_id"]


def test_size_categories():
    assert [size_category(n) for n in (999, 1000, 9_999, 10_000, 10**7)] == [
        "n<1K",
        "1K<n<10K",
        "1K<n<10K",
        "10K<n<100K",
        "n>1M",
    ]
