"""The Space: a folder that is complete by itself, and what it computes and draws (without its web page)."""

import base64
import dataclasses
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from answering_model import NAMES, encoded, reference, sample_image, save_model
from huggingface_hub import SpaceCard
from PIL import Image

from modeling_resformer.drawing import class_colour
from modeling_resformer.errors import BadInputError
from modeling_resformer.handler import EndpointHandler, RequestError


pytest.importorskip("jinja2")
from modeling_resformer.publishing.space import make_space


@pytest.fixture
def space(tmp_path) -> Path:
    sample_image().save(tmp_path / "one.png")
    return make_space(tmp_path / "space", "org/resformer-tiny", [tmp_path / "one.png"], revision="v0.1")


@pytest.fixture
def analysis(space, monkeypatch):
    """The Space's own module, imported as the Space imports it."""
    monkeypatch.syspath_prepend(str(space))
    for name in ("analysis", "drawing", "handler"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("analysis")
    for name in ("analysis", "drawing", "handler"):
        sys.modules.pop(name, None)


def test_the_folder_is_complete(space):
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "app.py", "analysis.py", "requirements.txt"),
        *("drawing.py", "handler.py", "settings.json", "examples/one.png"),
    }
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.models) == ("gradio", ["org/resformer-tiny"])
    assert (space / card.data.app_file).is_file() and len(card.data.short_description) <= 60
    assert "Not a medical device" in card.text and "{{" not in card.text and "v0.1" in card.text
    assert json.loads((space / "settings.json").read_text()) == {"model_id": "org/resformer-tiny", "revision": "v0.1"}


def test_another_folder_is_not_overwritten(space, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(BadInputError):
            make_space(tmp_path / "mine", "org/x", [], overwrite=overwrite)
    make_space(space, "org/other", [], overwrite=True)
    assert json.loads((space / "settings.json").read_text())["model_id"] == "org/other"


class TwoClasses:
    """A handler that found one class in the left half and another in the top right pixel."""

    tasks = ("segmentation", "classification")
    classes_exclude = False

    def __call__(self, data):
        left, corner = np.zeros((2, 2, 4), np.uint8)
        left[:, :2], corner[0, 3] = 255, 255
        found = [("IRF", 0.9, left), ("PED", 0.6, corner)]
        return {
            "segmentation": [
                {"label": name, "score": score, "mask": base64.b64encode(encoded(Image.fromarray(mask))).decode()}
                for name, score, mask in found
            ],
            "classification": [{"label": "IRF", "score": 0.8}, {"label": "PED", "score": 0.3}],
            "predicted_labels": ["IRF"],
        }


def test_areas_and_drawing_against_what_was_found(analysis, tmp_path):
    Image.new("RGB", (4, 2), (10, 20, 30)).save(tmp_path / "image.png")
    answer = analysis.analyse(TwoClasses(), NAMES, tmp_path / "image.png")
    assert answer.mask.tolist() == [[1, 1, 0, 3], [1, 1, 0, 0]]
    assert answer.scores == {"IRF": 0.8, "PED": 0.3} and "**IRF**" in analysis.verdict(answer)
    one_class = analysis.verdict(dataclasses.replace(answer, exclusive=True))
    assert "The highest score decides: **IRF**" in one_class and "threshold" not in one_class
    assert analysis.area_rows(answer) == [
        ["IRF", "4", "50.0%", "unknown", "0.90"],
        ["SRF", "0", "0.0%", "unknown", "none"],
        ["PED", "1", "12.5%", "unknown", "0.60"],
    ]
    # Pixels of half a millimetre cover a quarter of a square millimetre each.
    assert [row[3] for row in analysis.area_rows(answer, 0.5)] == ["1.00", "0.00", "0.25"]

    drawn = np.asarray(analysis.draw(answer, ["PED"], opacity=0))
    assert (drawn.reshape(-1, 3) == (10, 20, 30)).all(axis=1).sum() == 7
    assert tuple(drawn[0, 3]) == class_colour(3)
    np.testing.assert_array_equal(analysis.draw(answer, [], opacity=1), answer.image)


def test_the_filling_blends_with_the_image(analysis):
    mask = np.zeros((40, 40), np.uint8)
    mask[5:35, 5:35] = 1
    answer = analysis.Analysis(Image.new("RGB", (40, 40), (100, 100, 100)), mask, NAMES, {}, {}, 1600, {}, [])
    middle = np.asarray(analysis.draw(answer, ["IRF"], opacity=0.25))[20, 20]
    np.testing.assert_allclose(middle, 75 + 0.25 * np.array(class_colour(1)), atol=1)


def test_a_real_model_is_measured_at_the_images_own_size(analysis, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "LONGEST_SIDE", 35)
    endpoint = EndpointHandler(str(save_model(tmp_path / "model")))
    sample_image().save(tmp_path / "image.png")
    answer = analysis.analyse(endpoint, NAMES, tmp_path / "image.png")
    mask, scores = reference(tmp_path / "model", sample_image())
    assert answer.areas == {name: np.count_nonzero(mask == NAMES.index(name)) for name in NAMES[1:]}
    assert answer.scores == pytest.approx(scores, abs=1e-5)
    assert answer.image.size == (35, 30) and answer.pixels == 70 * 60
    (tmp_path / "broken.png").write_bytes(encoded(sample_image())[:200])
    with pytest.raises(RequestError, match="not a readable image"):
        analysis.analyse(endpoint, NAMES, tmp_path / "broken.png")


def test_turned_and_deep_images_give_what_upright_and_shallow_ones_give(analysis, tmp_path):
    endpoint = EndpointHandler(str(save_model(tmp_path / "model")))
    grey = sample_image().convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    grey.save(tmp_path / "shallow.png")
    grey.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    # 255 * 257 = 65535: the same shares of full scale.
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    shallow, turned, deep = (
        analysis.analyse(endpoint, NAMES, tmp_path / f"{name}.png") for name in ("shallow", "turned", "deep")
    )
    assert len(shallow.areas) > 1
    assert (turned.areas, turned.image.size) == (shallow.areas, grey.size)
    np.testing.assert_array_equal(turned.mask, shallow.mask)
    assert turned.scores == pytest.approx(shallow.scores, abs=1e-4)
    # Shallow images are rounded to whole grey levels once they are resized.
    assert (deep.mask == shallow.mask).mean() > 0.98
    assert deep.scores == pytest.approx(shallow.scores, abs=0.05)


def test_class_names_cannot_bring_html_along(analysis):
    assert "<script>" not in analysis.legend(["background", "<script>alert(1)</script>"])
