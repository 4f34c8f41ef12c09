"""Splits: exact sizes, every stratum's share, the same on every machine, and manifests that round-trip."""

from collections import Counter

import pytest
from raw_data import write_csv

from modeling_resformer.data.splits import apply_manifest, carve, read_manifest, stratified_choice, write_manifest
from modeling_resformer.errors import BadInputError, Problems


def official_strata():
    names = ["melanoma"] * 374 + ["keratosis"] * 254 + ["nevus"] * 1372
    return {f"ISIC_{i:07d}": name for i, name in enumerate(names)}


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 1 / 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_draw_has_its_size_and_every_stratum_its_share(fraction, seed):
    strata = official_strata()
    chosen = stratified_choice(strata, fraction, seed)
    assert len(chosen) == round(fraction * 2000)
    counts = Counter(strata[case_id] for case_id in chosen)
    for name, total in Counter(strata.values()).items():
        assert abs(counts[name] - fraction * total) <= 1


def test_the_draw_depends_on_the_seed_and_nothing_else():
    strata = official_strata()
    shuffled = dict(reversed(strata.items()))
    assert stratified_choice(strata, 0.1, 5) == stratified_choice(shuffled, 0.1, 5)
    assert stratified_choice(strata, 0.1, 5) != stratified_choice(strata, 0.1, 6)
    # pinned: another Python or platform must draw the same cases
    small = {f"case{i}": i % 2 for i in range(10)}
    assert sorted(stratified_choice(small, 0.4, 0)) == PINNED


PINNED = ["case1", "case4", "case6", "case7"]


def test_fractions_are_shares_of_the_whole_training_part():
    strata = official_strata()
    splits = carve(dict.fromkeys(strata, "train"), strata, {"test": 0.2, "validation": 0.1}, seed=0)
    assert Counter(splits.values()) == {"train": 1400, "test": 400, "validation": 200}


@pytest.mark.parametrize("fractions", [{"test": 1.0}, {"test": -0.1}, {"test": 0.6, "validation": 0.4}])
def test_impossible_fractions(fractions):
    with pytest.raises(BadInputError, match="fraction"):
        carve({"a": "train", "b": "train"}, {"a": 0, "b": 0}, fractions, seed=0)


def test_a_manifest_round_trips(tmp_path):
    splits = {"b": "test", "a": "train", "ü, 1": "validation"}
    write_manifest(splits, tmp_path / "splits.csv")
    assert read_manifest(tmp_path / "splits.csv") == splits
    assert apply_manifest(["A", "B", "Ü, 1"], splits, tmp_path, Problems()) == {
        "A": "train",
        "B": "test",
        "Ü, 1": "validation",
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["case_id"], ["a"]], "column split is missing; found case_id"),
        ([["case_id", "split"], ["a", "dev"]], "split 'dev' of a, expected train, validation, test"),
        ([["case_id", "split"], ["a", "train"], ["a", "test"]], "a comes twice"),
        ([["case_id", "split"], ["a", "train"], ["A", "test"]], "a and A are one id"),
    ],
)
def test_a_bad_manifest(tmp_path, rows, message):
    write_csv(tmp_path / "splits.csv", rows)
    with pytest.raises(BadInputError, match=message) as error:
        read_manifest(tmp_path / "splits.csv")
    assert "splits.csv" in str(error.value)


def test_a_manifest_must_name_the_same_cases(tmp_path):
    path = tmp_path / "splits.csv"
    with pytest.raises(BadInputError, match=r"splits\.csv: the manifest has no row for b"):
        apply_manifest(["a", "b"], {"a": "train"}, path, Problems())
    with pytest.raises(BadInputError, match="names c, which the source does not hold"):
        apply_manifest(["a"], {"a": "train", "c": "test"}, path, Problems())
    with pytest.raises(BadInputError, match="no such split manifest"):
        read_manifest(path)


def test_a_group_goes_into_one_split_and_every_stratum_still_has_its_share():
    strata = {name: (label,) for name, label in official_strata().items()}
    names = list(strata)
    groups = [names[i : i + 3] for i in range(0, 300, 3)] + [names[i : i + 2] for i in range(1000, 1400, 2)]
    splits = carve(dict.fromkeys(strata, "train"), strata, {"test": 0.2, "validation": 0.1}, 0, groups)
    for group in groups:
        assert len({splits[case_id] for case_id in group}) == 1
    drawn = Counter(splits.values())
    assert abs(drawn["test"] - 400) <= 6 and abs(drawn["validation"] - 200) <= 6
    # A fifth of the 100 threes, of the 200 pairs, and of the single cases.
    assert sum(splits[group[0]] == "test" for group in groups[:100]) == 20
    assert abs(sum(splits[group[0]] == "test" for group in groups[100:]) - 40) <= 1
    melanomas = sum(splits[name] == "test" for name, label in strata.items() if label == ("melanoma",))
    assert abs(melanomas - 0.2 * 374) <= 4


def test_groups_reach_only_the_cases_that_are_drawn():
    splits = {"a": "train", "b": "test", "c": "train", "d": "train", "e": "train"}
    strata = dict.fromkeys("acde", ("x",))
    drawn = carve(splits, strata, {"validation": 0.5}, 0, groups=[["a", "b", "c"]])
    assert drawn["b"] == "test"
    assert drawn["a"] == drawn["c"]
    assert sum(split == "validation" for split in drawn.values()) >= 1


def test_without_groups_the_draw_is_what_it_was():
    strata = {f"case{i}": (str(i % 2),) for i in range(10)}
    splits = carve(dict.fromkeys(strata, "train"), strata, {"test": 0.4}, 0, groups=[])
    assert sorted(case_id for case_id, split in splits.items() if split == "test") == PINNED
