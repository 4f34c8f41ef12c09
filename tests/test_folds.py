"""Folds of a dataset: every case is tested once, look-alikes stay together, and labels come in their share."""

import csv
import io
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Value
from prepared_data import CLASS_LABELS, MASK_CLASSES, image_row, prepared_dataset
from sklearn.model_selection import StratifiedKFold

from modeling_resformer.data import folds as folds_module
from modeling_resformer.data.columns import dataset_features
from modeling_resformer.data.folds import Folds, case_strata, find_groups, read_groups
from modeling_resformer.data.prepared import PreparedDataset, load_prepared
from modeling_resformer.data.splits import deal, write_manifest
from modeling_resformer.errors import BadInputError


def prepared_of(dataset):
    return PreparedDataset(dataset, MASK_CLASSES, CLASS_LABELS, {"source_fingerprint": "f", "near_duplicates": {}})


def official_strata():
    names = ["melanoma"] * 374 + ["keratosis"] * 254 + ["nevus"] * 1372
    return {f"ISIC_{i:07d}": (name,) for i, name in enumerate(names)}


@pytest.mark.parametrize("number", [2, 5, 7])
@pytest.mark.parametrize("seed", range(3))
def test_labels_come_in_the_share_that_scikit_learn_gives_them(number, seed):
    strata = official_strata()
    fold_of = deal(strata, number, seed)
    assert fold_of.keys() == strata.keys()
    ours = Counter((fold, strata[case_id]) for case_id, fold in fold_of.items())
    labels = np.array([label for (label,) in strata.values()])
    drawn = StratifiedKFold(number, shuffle=True, random_state=seed).split(labels, labels)
    theirs = [Counter(labels[test].tolist()) for _, test in drawn]
    for (name,), total in Counter(strata.values()).items():
        counts = sorted(ours[fold, (name,)] for fold in range(number))
        assert counts == sorted(one[name] for one in theirs)
        assert counts[-1] - counts[0] <= 1 and sum(counts) == total
    sizes = Counter(fold_of.values()).values()
    assert max(sizes) - min(sizes) <= 1


def test_the_folds_depend_on_the_seed_and_nothing_else():
    strata = official_strata()
    assert deal(strata, 5, 3) == deal(dict(reversed(strata.items())), 5, 3)
    assert deal(strata, 5, 3) != deal(strata, 5, 4)
    # Pinned: another Python or platform must deal the same.
    small = {f"case{i}": (str(i % 2),) for i in range(6)}
    assert deal(small, 3, 0) == PINNED


PINNED = {"case2": 0, "case0": 1, "case4": 2, "case3": 0, "case1": 1, "case5": 2}


def test_groups_lie_in_one_fold_and_every_label_has_its_share_still():
    strata = official_strata()
    names = list(strata)
    groups = [names[i : i + 3] for i in range(0, 300, 3)] + [names[i : i + 2] for i in range(1000, 1400, 2)]
    fold_of = deal(strata, 5, 0, groups)
    assert all(len({fold_of[case_id] for case_id in group}) == 1 for group in groups)
    # A fifth of the 100 threes, and of the 200 pairs, in every fold.
    assert set(Counter(fold_of[group[0]] for group in groups[:100]).values()) == {20}
    assert set(Counter(fold_of[group[0]] for group in groups[100:]).values()) == {40}
    melanomas = Counter(fold_of[name] for name, label in strata.items() if label == ("melanoma",))
    assert max(melanomas.values()) - min(melanomas.values()) <= 1


@pytest.mark.parametrize("number", [1, 5])
def test_more_folds_than_cases_are_refused(number):
    with pytest.raises(BadInputError, match=rf"--folds {number}: expected from 2 to 4"):
        deal(dict.fromkeys("abcde", ("x",)), number, 0, [["a", "b"]])


def with_a_look_alike(dataset):
    """The first image of training once more, as a case of the test split."""
    row = {**dataset["train"][0], "case_id": "again", "class_labels": [0], "class_labels_unknown": []}
    again = Dataset.from_list([row], features=dataset["test"].features)
    rows = [*dataset["test"], *again]
    return DatasetDict({**dataset, "test": Dataset.from_list(rows, features=dataset["test"].features)})


def test_every_case_is_tested_once_and_never_beside_a_look_alike():
    prepared = prepared_of(with_a_look_alike(prepared_dataset(train=16, validation=8, test=8)))
    groups = find_groups(prepared, 3)
    assert groups == [["again", "case_0"]]
    folds = Folds.of(prepared, 3, 0, groups)
    tested = Counter()
    for fold in range(3):
        splits = folds.splits(fold)
        assert splits.keys() == folds.fold_of.keys() == folds.strata.keys()
        assert splits["again"] == splits["case_0"]
        tested.update(case_id for case_id, split in splits.items() if split == "test")
        rest = sum(split != "test" for split in splits.values())
        # The dataset selects by 4 of the 12 cases that it does not test.
        assert sum(split == "validation" for split in splits.values()) == pytest.approx(rest / 3, abs=1)
        rows = prepared.with_splits(splits, "drawn").dataset
        for name, part in rows.items():
            assert {splits[case_id] for case_id in part["case_id"]} == {name}
        assert sum(map(len, rows.values())) == 33
    assert set(tested.values()) == {1} and len(tested) == 17


def test_a_group_that_would_fill_a_fold_is_refused(monkeypatch):
    """As on images that all look alike to the check."""
    from modeling_resformer.data import leakage

    prepared = prepared_of(prepared_dataset(train=16, validation=8, test=8))
    monkeypatch.setattr(leakage, "linked_cases", lambda compared: [[f"case_{i}" for i in range(5)]])
    with pytest.raises(BadInputError, match=r"5 of 16 cases hang together .* --no-leakage-check"):
        find_groups(prepared, 4)
    monkeypatch.setattr(folds_module, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match="ImageHash, which is not installed"):
        find_groups(prepared, 4)


def test_the_table_tells_case_fold_group_and_stratum_and_is_read_again(tmp_path):
    prepared = prepared_of(prepared_dataset(train=8, validation=4, test=4))
    folds = Folds.of(prepared, 2, 0, [["case_1", "case_12"], ["case_0", "case_2"]])
    (tmp_path / "folds.csv").write_text(folds.table())
    rows = list(csv.DictReader(io.StringIO(folds.table())))
    assert [row["case_id"] for row in rows] == sorted(folds.fold_of)
    assert {row["case_id"]: int(row["fold"]) for row in rows} == folds.fold_of
    assert read_groups(tmp_path / "folds.csv") == [["case_1", "case_12"], ["case_0", "case_2"]]
    again = Folds.of(prepared, 2, 0, read_groups(tmp_path / "folds.csv"))
    assert again.table() == folds.table()


def rows_with(vendors, labels=CLASS_LABELS, **columns):
    features = dataset_features(MASK_CLASSES, labels, {"vendor": Value("string")})
    rng = np.random.default_rng(0)
    rows = [{**image_row(0, rng), "case_id": f"c{i}", **columns, "vendor": vendor} for i, vendor in enumerate(vendors)]
    return Dataset.from_list(rows, features=features)


def test_a_stratum_is_labels_and_vendor_or_masks_where_there_are_no_labels():
    split = DatasetDict(train=rows_with(["Cirrus", None]))
    assert case_strata(prepared_of(split)) == {"c0": ("red", "vendor:Cirrus"), "c1": ("red",)}
    unlabelled = rows_with(["Topcon"], class_labels=None, mask=None, mask_classes=None)
    # What nobody labelled takes part in no fold.
    split = DatasetDict(train=unlabelled, unlabelled=rows_with(["Cirrus", "Cirrus", "Cirrus"]))
    prepared = prepared_of(split)
    assert case_strata(prepared) == {"c0": ("(no label)", "(no mask)", "vendor:Topcon")}
    masks_alone = DatasetDict(train=rows_with([None], labels=[], class_labels=None))
    assert case_strata(PreparedDataset(masks_alone, MASK_CLASSES, [], {})) == {"c0": ("lesion",)}


def test_the_split_unlabelled_stays_what_it_is():
    dataset = prepared_dataset(train=8, validation=4, test=4)
    dataset["unlabelled"] = dataset.pop("validation")
    folds = Folds.of(prepared_of(dataset), 2, 0)
    assert [case_id for case_id, split in folds.splits(0).items() if split == "unlabelled"] == folds.unlabelled
    assert len(folds.unlabelled) == 2 and not set(folds.unlabelled) & set(folds.fold_of)
    # Without a validation split one case in ten selects, and at least one.
    assert sum(split == "validation" for split in folds.splits(0).values()) == 1


def test_a_manifest_takes_the_place_of_a_datasets_own_splits(tmp_path):
    dataset = prepared_dataset(train=4, validation=2, test=2)
    dataset.save_to_disk(str(tmp_path / "data"))
    splits = {"case_0": "test", "case_1": "train", "case_4": "validation", "case_6": "train"}
    write_manifest(splits, tmp_path / "mine.csv")
    prepared = load_prepared(tmp_path / "data", tmp_path / "mine.csv")
    found = {name: list(dict.fromkeys(rows["case_id"])) for name, rows in prepared.dataset.items()}
    assert found == {"train": ["case_1", "case_6"], "validation": ["case_4"], "test": ["case_0"]}
    assert prepared.metadata["split_rule"] == "manifest mine.csv" and prepared.metadata["near_duplicates"] is None
    write_manifest({**splits, "other": "test"}, tmp_path / "mine.csv")
    with pytest.raises(BadInputError, match="names other, which the source does not hold"):
        load_prepared(tmp_path / "data", tmp_path / "mine.csv")
