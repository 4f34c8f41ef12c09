"""Scores of subgroups by hand, and images that are spoilt as they are said to be."""

import numpy as np
import pytest
from PIL import Image

from modeling_resformer.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from modeling_resformer.evaluation.evaluation import PartScores, cut_into_thirds, largest_gaps
from modeling_resformer.metrics.scores import Score


def part(dice: float, cases: int) -> PartScores:
    return PartScores(cases, cases, 0, {"dice": Score(dice, 0.0, 1.0, cases)}, {}, [])


def test_numbers_are_cut_into_thirds_and_the_rest_stays():
    assert cut_into_thirds(["m", "f", None]) == ["m", "f", None]
    assert cut_into_thirds([1, 2, 3, None]) == [1, 2, 3, None]
    cut = cut_into_thirds([*range(30, 42), None])
    assert cut[:4] == ["up to 33"] * 4
    assert cut[4:8] == ["over 33 to 37"] * 4
    assert cut[8:] == ["over 37"] * 4 + [None]


def test_the_largest_gap_leaves_groups_of_few_cases_out():
    gaps = largest_gaps(
        {
            "a": part(0.9, 20),
            "b": part(0.7, 10),
            "c": part(0.1, 9),
            "d": part(float("nan"), 30),
            "unknown": part(0.2, 50),
        }
    )
    assert gaps["dice"] == {"gap": pytest.approx(0.2), "highest": "a", "lowest": "b"}
    assert largest_gaps({"a": part(0.9, 20)}) == {}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(60, 200, (60, 80, 3), dtype=np.uint8))
    return small.resize((160, 120), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_spoiling_grows_with_its_strength_and_repeats_by_its_seed(image, kind, mode):
    image = image.convert(mode)
    spoilt = [corrupted(image, kind, strength, (7,)) for strength in STRENGTHS]
    away = [np.abs(np.asarray(one, float) - np.asarray(image, float)).mean() for one in spoilt]
    assert away == sorted(away)
    assert 0 < away[0] < away[-1]
    assert {(one.mode, one.size) for one in spoilt} == {(mode, image.size)}
    assert np.array_equal(np.asarray(spoilt[1]), np.asarray(corrupted(image, kind, 2, (7,))))


def test_noise_has_the_deviation_that_is_told():
    grey = Image.new("L", (200, 200), 128)
    assert np.asarray(corrupted(grey, "noise", 3, (0,)), float).std() / 255 == pytest.approx(0.08, rel=0.03)
