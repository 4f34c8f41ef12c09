"""predict.py --report and --worklist: what stands on the pages, that it is text, and in which order cases come."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_tables import rows_of
from raw_data import write_metaimage
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.prediction.case_report import ModelFacts
from modeling_resformer.prediction.evidence import class_evidence, share_inside
from modeling_resformer.prediction.predictor import Predictor, Windows, load_pipeline, mean_entropy
from modeling_resformer.prediction.result_tables import ClassNames
from modeling_resformer.prediction.worklist import worklist_page


SIZE = 32
HOSTILE = '<script>alert("x")</script>'
LABELS = ["a", HOSTILE]
MODEL = ModelFacts("org/model", "abc123", "f" * 64)


class Page(HTMLParser):
    """Tags with their attributes, text by row of a table, and all text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.rows, self.text, self.in_cell = [], [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def all(self, tag, attribute):
        return [attributes[attribute] for name, attributes in self.tags if name == tag and attribute in attributes]


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places") / "my-model"
    config = tiny_config(id2label={0: "background", 1: "lesion"}, classification_labels=LABELS)
    torch.manual_seed(0)
    model = ResFormerForMultiTask(config)
    model.classification_head.classifier.weight.data *= 40
    model.save_pretrained(folder)
    ResFormerImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def images(tmp_path, pixels):
    """Names that would be HTML, or another address, if they were not text."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ('a"><img src=x onerror=alert(1)>.png', "100% #1?.png", "plain.png"):
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_a_report_says_what_the_table_says_and_is_complete_in_itself(predict, model, images, pixels, tmp_path):
    output = tmp_path / "out"
    assert predict([model, str(images), "--output", str(output), "--report", "--cpu-threads", "1"]) == 0
    row = next(row for row in rows_of(output) if row["case_id"] == "plain")
    html = (output / "reports/plain.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "Not a medical device" in page.text and "my-model" in page.text and "plain" in page.text
    assert load_pipeline_digest(model) in page.text
    assert str(tmp_path) not in html and str(images) not in html and model not in html
    assert not re.search(r"(src|href)=.(?!data:)|url\(|https?://|@import|<script", html)
    for label in LABELS:
        (cells,) = [cells for cells in page.rows if cells[0] == label]
        assert float(cells[1]) == pytest.approx(float(row[f"score_{label}"]), abs=0.0051)
        assert float(cells[2]) == 0.5
        assert (cells[3] == "present") == (row[f"label_{label}"] == "True")
    (cells,) = [cells for cells in page.rows if cells[0] == "lesion"]
    assert cells[1] == f"{int(row['area_pixels_lesion']):,}" and "no millimetres" in page.text
    assert "confidence" not in page.text and "ruled out" not in page.text, "this model tells none of it"
    pictures = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in page.all("img", "src")]
    assert {picture.size for picture in pictures} == {(SIZE, SIZE)} and len(pictures) >= 3

    mask = np.asarray(Image.open(output / row["mask"]))
    network = ResFormerForMultiTask.from_pretrained(model).eval()
    inputs = ResFormerImageProcessor.from_pretrained(model)(Image.fromarray(pixels), return_tensors="pt")
    evidence = class_evidence(network, inputs["pixel_values"])[0].numpy()
    for k, label in enumerate(LABELS):
        shown = next(cells[4] for cells in page.rows if cells[0] == label)
        expected = share_inside(evidence[k], mask)
        assert shown == "-" if expected is None else float(shown[:-2]) == pytest.approx(100 * expected, abs=0.2)


def load_pipeline_digest(model):
    from modeling_resformer.exporting.weights import weights_digest

    return weights_digest(ResFormerForMultiTask.from_pretrained(model))


def test_names_are_text_on_both_pages_and_links_lead_to_files(predict, model, images, tmp_path):
    output = tmp_path / "out"
    assert predict([model, str(images), "--output", str(output), "--report", "--no-overlays"]) == 0
    pages = [read(path) for path in (*sorted((output / "reports").iterdir()), output / "worklist.html")]
    assert len(pages) == 4
    for page in pages:
        assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "embed", "form"})
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert HOSTILE in page.text
    worklist = pages[-1]
    for link in (*worklist.all("a", "href"), *worklist.all("img", "src")):
        assert "://" not in link and (output / unquote(link)).is_file()
    assert len(worklist.all("a", "href")) == len(worklist.all("img", "src")) == 3
    assert set(worklist.all("img", "loading")) == {"lazy"}
    assert all(path.stat().st_size < 8000 for path in (output / "thumbnails").iterdir())


def test_a_volume_has_mm3_slices_and_a_view_from_the_front(predict, model, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 256, (4, 20, 24), dtype=np.uint8)
    write_metaimage(tmp_path / "eye" / "oct.mhd", voxels, spacing=(0.01, 0.002, 0.05))
    output = tmp_path / "out"
    assert predict([model, str(tmp_path / "eye"), "--output", str(output), "--report"]) == 0
    (volume,) = rows_of(output, "volumes")
    page = read(output / "reports" / "eye.html")
    (cells,) = [cells for cells in page.rows if cells[0] == "lesion"]
    heads = next(cells for cells in page.rows if "volume, mm³" in cells)
    shown = dict(zip(heads, cells, strict=True))
    assert float(shown["volume, mm³"]) == pytest.approx(float(volume["volume_mm3_lesion"]), rel=0.006)
    assert shown["voxels"] == f"{int(volume['voxels_lesion']):,}"
    assert "volume of 4 slices, 24 x 20 pixels" in page.text and "from the front" in page.text
    assert "evidence for" in page.text and "slice 1 of 4" in page.text
    assert "4 slices" in read(output / "worklist.html").text


def test_a_run_goes_on_and_makes_again_what_is_missing(predict, model, images, tmp_path, capsys, caplog):
    arguments = [model, str(images), "--output", str(tmp_path / "out"), "--cpu-threads", "1"]
    assert predict([*arguments, "--report"]) == 0
    (tmp_path / "out/reports/plain.html").unlink()
    (tmp_path / "out/worklist.html").unlink()
    assert predict([*arguments, "--report"]) == 0
    assert "3 images and slices, 1 of them now" in capsys.readouterr().out
    assert (tmp_path / "out/reports/plain.html").is_file() and (tmp_path / "out/worklist.html").is_file()
    assert predict(arguments) == 1
    assert "pages" in caplog.messages[-1]
    assert predict([*arguments, "--overwrite", "--worklist"]) == 0
    assert not (tmp_path / "out/reports").exists()
    links = read(tmp_path / "out/worklist.html").all("a", "href")
    assert links and all(link.startswith("overlays/") for link in links)


def record(name, rows, **more):
    return {"name": name, "rows": rows, "files": [], **more}


def row(score=0.9, threshold=0.5, **more):
    return {"score_a": score, "threshold_a": threshold, "label_a": score >= (threshold or 0), **more}


def order(page):
    return [cells[2] for cells in Page(page.decode()).rows[1:]]


def test_flagged_cases_come_first_then_the_least_confident():
    records = [
        record("sure", [row(confidence=0.95, flags="", doubt="")]),
        record("flagged", [row(confidence=0.7, flags="low_confidence", doubt="The model is unsure <b>.")]),
        record("unsure", [row(confidence=0.3, flags="", doubt="")]),
        record(
            "volume",
            [
                row(confidence=0.9, flags="", doubt=""),
                row(confidence=0.6, flags="unlike_training_images", doubt="Odd."),
            ],
            volume={},
        ),
    ]
    page = worklist_page(records, ClassNames((), ("a",)), MODEL)
    assert order(page) == ["volume", "flagged", "unsure", "sure"]
    text = Page(page.decode()).text
    assert "flagged cases first, then by the model's confidence" in text
    assert "The model is unsure <b>." in text and "Slice 2: Odd." in text and "unlike_training_images" in text
    assert "abc123" in text and "org/model" in text


def test_without_confidence_the_closest_to_its_threshold_comes_first():
    """In log odds: 0.02 at a threshold of 0.05 is closer to it than 0.9 is to 0.5, and 0.4 is closest."""
    odds = {"near": (0.4, 0.5, math.log(1.5)), "rare": (0.02, 0.05, math.log(49 / 19)), "far": (0.9, 0.5, math.log(9))}
    records = [record(name, [row(score, at)]) for name, (score, at, _) in reversed(odds.items())]
    page = worklist_page(records, ClassNames((), ("a",)), MODEL, problems=2)
    assert order(page) == ["near", "rare", "far"]
    shown = [cells[-1] for cells in Page(page.decode()).rows[1:]]
    assert shown == [f"{expected:.2f}" for _, _, expected in odds.values()]
    assert "tells no confidence" in page.decode() and "2 could not be read" in page.decode()


def test_classes_that_exclude_each_other_by_the_two_highest_and_masks_alone_by_entropy():
    def exclusive(a, b):
        return {**row(a, None), "score_b": b, "threshold_b": None, "label_b": b > a}

    records = [record("even", [exclusive(0.5, 0.5)]), record("clear", [exclusive(0.99, 0.01)])]
    assert order(worklist_page(records[::-1], ClassNames((), ("a", "b")), MODEL)) == ["even", "clear"]
    masks = [
        record(name, [{"mask_entropy": value, "area_pixels_fluid": 1}]) for name, value in (("one", 0.1), ("two", 0.4))
    ]
    page = worklist_page(masks, ClassNames(("fluid",), ()), MODEL)
    assert order(page) == ["two", "one"] and "entropy" in page.decode()


def test_the_entropy_of_a_mask():
    assert mean_entropy(torch.zeros(1, 4, 2, 2)) == pytest.approx(1)
    assert mean_entropy(torch.tensor([[[[100.0]], [[0.0]]]])) == pytest.approx(0, abs=1e-6)
    quarter = torch.tensor([0.25, 0.75]).log().view(1, 2, 1, 1)
    assert mean_entropy(quarter) == pytest.approx(0.8112781, abs=1e-6)  # bits of a coin of 1 in 4


def test_thousands_of_cases_stay_light():
    records = [
        {**record(f"case-{n}", [row(n / 5000)]), "files": [f"reports/case-{n}.html", f"thumbnails/case-{n}.jpg"]}
        for n in range(5000)
    ]
    page = worklist_page(records, ClassNames((), ("a",)), MODEL)
    assert len(page) < 2_500_000


@pytest.mark.parametrize("tta", [False, "horizontal"])
def test_evidence_is_that_of_the_whole_image_over_all_views_also_with_windows(model, tta):
    pipe = load_pipeline(model, None, torch.device("cpu"))
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 40, 3), dtype=np.uint8))
    plain = Predictor(pipe, tta=tta, evidence=True)
    inputs = plain.prepare(image)["pixel_values"]
    expected = class_evidence(pipe.model, inputs)
    if tta:
        expected = (expected + class_evidence(pipe.model, inputs.flip(-1)).flip(-1)) / 2
    for predictor in (plain, Predictor(pipe, tta=tta, windows=Windows(), evidence=True)):
        (logits,) = predictor.forward([predictor.prepare(image)])
        torch.testing.assert_close(logits["evidence"], expected, rtol=1e-4, atol=1e-4)
        assert predictor.evidence_at(logits, 1, (48, 40)).shape == (48, 40)
    (logits,) = Predictor(pipe, tta=tta).forward([plain.prepare(image)])
    assert "evidence" not in logits
