"""Clients driven for real: npm's client and widget against the server, the Space, and the page that runs a model, in Chromium.

`make test-clients` installs what they need and runs them.
"""

import base64
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
import SimpleITK
from answering_model import NAMES, foreground, reference, sample_image, save_model
from http_requests import serving, until, wait_until_loaded
from huggingface_hub import SpaceCard
from oct_phantom import plan_volumes
from PIL import Image
from prediction_tables import rows_of
from pypdf import PdfReader

from modeling_resformer import ResFormerConfig
from modeling_resformer.commands.make_page import main as make_page_main
from modeling_resformer.commands.predict import main as predict_main
from modeling_resformer.configuration_resformer import DOUBTS
from modeling_resformer.prediction.case_report import trust_told
from modeling_resformer.prediction.measurements import measure_volume
from modeling_resformer.publishing.space import make_space


CLIENTS = Path(__file__).parent / "clients"
ROOT = Path(__file__).parents[1]
READY = ROOT / "hub_cards" / "resformer-lite-isic2017"
PHOTOGRAPHS = ROOT / "examples" / "isic2017_sample" / "ISIC-2017_Training_Data"
# Where a run's screenshots are to be kept for looking at.
SCREENSHOTS = os.environ.get("SCREENSHOTS")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CLIENTS / "node_modules").is_dir(), reason="make test-clients installs the npm packages"),
]


def node(script, *arguments):
    command = ["node", str(CLIENTS / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("clients") / "model")


@pytest.fixture(scope="module")
def image(folder):
    sample_image().save(folder.parent / "image.png")
    return folder.parent / "image.png"


@pytest.fixture(scope="module")
def screenshots(folder):
    path = Path(SCREENSHOTS) if SCREENSHOTS else folder.parent / "screenshots"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def url(folder):
    process = serving(folder, "--allow-origin", "*")  # the widget is a web page
    address = process.stdout.readline().strip()
    wait_until_loaded(int(address.rpartition(":")[2]))
    yield address
    process.terminate()
    process.wait(timeout=30)


def test_npms_client_gets_masks_and_classes(url, folder, image):
    answers = node("inference_client.mjs", url, image)
    mask, scores = reference(folder, sample_image())
    for key in ("segmentation", "segmentationOfUntyped"):
        assert [one["label"] for one in answers[key]] == foreground(mask)
        for one in answers[key]:
            found = np.asarray(Image.open(BytesIO(base64.b64decode(one["mask"]))))
            np.testing.assert_array_equal(found, (mask == NAMES.index(one["label"])) * 255)
    for key in ("classification", "classificationOfInputs"):
        assert {one["label"]: one["score"] for one in answers[key]} == pytest.approx(scores, abs=1e-5)
    assert answers["strict"] == []
    assert "threshold is 2; expected a number from 0 to 1" in answers["refused"]


def test_the_widget_draws_the_masks(url, folder, image, screenshots):
    shown = node("widget.mjs", url, "image-segmentation", image, screenshots / "widget_segmentation.png", CHROMIUM)
    mask, _ = reference(folder, sample_image())
    assert shown["problems"] == []
    assert all(name in shown["text"] for name in foreground(mask)) and "Computation time on cpu" in shown["text"]
    assert shown["colouredShare"] == pytest.approx(np.mean(mask > 0), abs=0.1)


def test_the_widget_lists_the_classes(url, folder, image, screenshots):
    page = screenshots / "widget_classification.png"
    shown = node("widget.mjs", f"{url}/image-classification", "image-classification", image, page, CHROMIUM)
    _, scores = reference(folder, sample_image())
    assert shown["problems"] == []
    assert all(f"{score:.3f}" in shown["text"] for score in scores.values())


@pytest.mark.skipif(find_spec("gradio") is None, reason="make test-clients installs gradio")
def test_the_space_draws_toggles_and_measures(folder, image, screenshots, tmp_path):
    space = make_space(tmp_path / "space", str(folder), [image])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MODEL_", "PYTHONPATH"))},
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path / "uploads"),
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment)
    try:
        until(lambda: is_open(port))
        shown = node("space.mjs", f"http://127.0.0.1:{port}", image, "SRF", screenshots, CHROMIUM)
    finally:
        process.terminate()
        process.wait(timeout=30)
    mask, scores = reference(folder, sample_image())
    assert shown["failed"] == [], "nothing breaks, and no third party is asked"
    assert "Not a medical device" in shown["text"]
    for name in NAMES[1:]:
        assert f"{np.count_nonzero(mask == NAMES.index(name)):,}" in shown["text"]
    assert all(f"{score:.0%}" in shown["text"] for score in scores.values())
    assert not np.allclose(shown["asItComes"], shown["without"], atol=0.5)
    assert not np.allclose(shown["asItComes"], shown["opaque"], atol=0.5)
    assert "image" in shown["message"].lower() and "Traceback" not in shown["message"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the checkpoint that comes along, with the runtime from npm."""
    folder = tmp_path_factory.mktemp("page") / "page"
    assert make_page_main(["--model", str(READY), "--output", str(folder)]) == 0
    return folder


class WithHeaders(SimpleHTTPRequestHandler):
    """Of a folder, with more headers in each answer."""

    more: ClassVar[dict[str, str]] = {}

    def end_headers(self):
        for name, value in self.more.items():
            self.send_header(name, value)
        super().end_headers()


@contextmanager
def served(folder, headers=None):
    handler = partial(type("Handler", (WithHeaders,), {"more": headers or {}}), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page_url(page):
    with served(page) as url:
        yield url


@pytest.fixture(scope="module")
def phantom():
    """Small volumes of two devices, (slices, rows, columns) of 8 and of 16 bits, and their (slice, row, column) in mm."""
    cirrus, _, _, spectralis, *_ = plan_volumes(3, 5, "small", 0)
    return [(volume.draw()[0], volume.grid.spacing) for volume in (cirrus, spectralis)]


@pytest.fixture(scope="module")
def small(phantom, tmp_path_factory):
    """A model that sees the first volume at its own size, and its page, with WebGPU beside."""
    folder = tmp_path_factory.mktemp("small")
    voxels, _ = phantom[0]
    model = save_model(folder / "model", Image.fromarray(voxels[2]).convert("RGB"), voxels.shape[1:])
    assert make_page_main(["--model", str(model), "--output", str(folder / "page"), "--webgpu"]) == 0
    return folder


def test_the_page_answers_as_python_does_and_asks_nobody(page, page_url, screenshots, tmp_path):
    """From PNG, which every decoder reads alike; on the same file in ONNX Runtime for Python, from Pillow's pixels."""
    images = [tmp_path / f"{path.stem}.png" for path in sorted(PHOTOGRAPHS.glob("*.jpg"))[:20]]
    for image in images:
        Image.open(PHOTOGRAPHS / f"{image.stem}.jpg").save(image)
    scan = np.random.default_rng(0).integers(0, 65536, (3, 40, 52), dtype=np.uint16)
    volumes = [tmp_path / name for name in ("zipped.nii.gz", "packed.mha", "plain.mha")]
    for path in volumes:
        volume = SimpleITK.GetImageFromArray(scan >> 8 if path.stem == "plain" else scan)
        volume = SimpleITK.Cast(volume, SimpleITK.sitkUInt8) if path.stem == "plain" else volume
        volume.SetSpacing((0.01, 0.02, 0.1))
        SimpleITK.WriteImage(volume, str(path), useCompression=path.stem != "plain")
    images = [*volumes, *images]
    shown = node("page.mjs", page_url, screenshots, CHROMIUM, *images)
    assert shown["problems"] == [] and len(shown["answered"]) == 23
    assert [one["url"] for one in shown["requests"] if one["afterLoading"]] == []
    assert {one["url"].removeprefix("blob:").startswith(page_url) for one in shown["requests"]} == {True}
    assert len(shown["refused"]) == 2 and "reached" not in shown["tries"], "the policy holds in page and worker"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(page / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for image, answered in zip(images, shown["answered"], strict=True):
        mask, report = Image.open(answered["mask"]), json.loads(Path(answered["report"]).read_text())
        if image in volumes:
            grey = scan[2] >> 8 if image.stem == "plain" else np.round(scan[2] / 257)
            pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
            assert report["slice"] == 2
            for one in report["mask_classes"]:
                assert one["mm2"] == pytest.approx(one["pixels"] * 0.01 * 0.02, rel=1e-5)
        else:
            pixels = np.asarray(Image.open(image))
        expected = dict(zip(names, session.run(None, {"image": pixels[None]}), strict=True))
        assert mask.mode == "P" and np.mean(np.asarray(mask) == expected["segmentation"][0]) >= 0.999
        scores = [one["score"] for one in report["class_scores"]]
        np.testing.assert_allclose(scores, expected["class_scores"][0], atol=1e-3)
        assert [one["predicted"] for one in report["class_scores"]] == expected["predicted_classes"][0].tolist()
        assert report["confidence"] == pytest.approx(expected["confidence"][0], abs=1e-3)
        assert report["distance"] == pytest.approx(expected["distance"][0], rel=1e-2)
        shares = [one["share"] for one in report["mask_classes"]]
        np.testing.assert_allclose(shares, expected["area_fraction"][0], atol=1e-3)
    handed = [json.loads(Path(path).read_text())["class_scores"] for path in shown["handed"]]
    assert handed == [report["class_scores"]] * 2, "dropped and pasted it is the same image"
    loaded = [path for path in page.rglob("*.*") if path.suffix in (".html", ".css", ".js", ".mjs", ".wasm")]
    assert sum(len(gzip.compress(path.read_bytes(), 6)) for path in loaded) < 5e6, "before the model"
    assert len(set(shown["drawn"])) == 3, "a class switched off and an opaque fill look different"
    assert shown["overflow"] == 0, "a telephone is wide enough"
    assert "Not a medical device" in shown["text"] and shown["message"] == "half.png: the PNG file is damaged."
    milliseconds = [json.loads(Path(one["report"]).read_text())["milliseconds"] for one in shown["answered"]]
    print(f"\nready {shown['ready']:.0f} ms, first answer {shown['answered'][0]['took']:.0f} ms, ", end="")
    print(f"network and steps {np.median(milliseconds):.0f} ms an image (median), one thread")


def onnx_answers(model, images):
    """Outputs by name of ONNX Runtime in Python, for each of several (height, width) grey images of 8 bits."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = (np.repeat(image[None, ..., None], 3, axis=3) for image in images)
    return [dict(zip(names, session.run(None, {"image": image}), strict=True)) for image in given]


def test_the_page_measures_whole_volumes_as_predict_does(small, phantom, screenshots, tmp_path):
    """A volume of 8 bits at the network's own size against predict.py; others against ONNX Runtime, slice by slice."""
    (cirrus, cirrus_mm), (spectralis, spectralis_mm) = phantom
    turned = (0, 1, 0, 0, 0, 1, 1, 0, 0)
    given = {
        "eye.mha": (cirrus, cirrus_mm),
        "deep.nii.gz": (spectralis, spectralis_mm),
        "nowhere.nii": (np.tile(cirrus, (8, 1, 1)), None),
    }
    for name, (voxels, spacing) in given.items():
        image = SimpleITK.GetImageFromArray(voxels)
        if spacing:
            image.SetSpacing(spacing[::-1])
            image.SetOrigin((1.5, -2.25, 30))
            image.SetDirection(turned)
        SimpleITK.WriteImage(image, str(tmp_path / name), useCompression=True)
    with served(small / "page") as url:
        shown = node("page_volumes.mjs", url, screenshots, CHROMIUM, *(tmp_path / name for name in given))
    assert shown["problems"] == [] and shown["found"][0]["jumped"] and shown["found"][0]["overflow"] == 0
    for (name, (voxels, spacing)), found in zip(given.items(), shown["found"], strict=True):
        written, original = SimpleITK.ReadImage(found["mask"]), SimpleITK.ReadImage(str(tmp_path / name))
        for place in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(written, place)() == getattr(original, place)()
        mask, told = SimpleITK.GetArrayFromImage(written), json.loads(Path(found["answer"]).read_text())
        assert mask.dtype == np.uint8 and found["mask"].endswith(name.partition(".")[2])
        grey = voxels if voxels.dtype == np.uint8 else np.round(voxels / 257).astype(np.uint8)
        answers = onnx_answers(small / "page" / "model.onnx", grey)
        assert np.mean(mask == np.concatenate([one["segmentation"] for one in answers])) >= 0.999
        scores = np.concatenate([one["class_scores"] for one in answers])
        by_slice = [[one["score"] for one in each["class_scores"]] for each in told["by_slice"]]
        np.testing.assert_allclose(by_slice, scores, atol=1e-3)
        labelled = np.concatenate([one["predicted_classes"] for one in answers]).sum(axis=0)
        for one, highest, count in zip(told["class_scores"], scores.max(axis=0), labelled, strict=True):
            assert (one["slices_labelled"], one["predicted"]) == (count, count > 0)
            assert one["highest_score"] == pytest.approx(highest, abs=1e-3)
        for one, measured in zip(told["mask_classes"], measure_volume(mask, NAMES, spacing).values(), strict=True):
            for fact, value in vars(measured).items():
                if fact != "lesion_count":
                    assert one[fact] == (value if value is None else pytest.approx(value, rel=1e-6)), fact
        assert "mm³" in found["told"] if spacing else "voxels" in found["told"]
    assert "no mm³" in shown["found"][2]["text"]
    told = json.loads(Path(shown["found"][0]["answer"]).read_text())
    compare_with_predict(small / "model", tmp_path / "eye.mha", shown["found"][0]["mask"], told, tmp_path / "out")
    stopped = shown["stopped"]
    assert re.fullmatch(r"nowhere\.nii: stopped after \d+ of 40 slices\.", stopped.pop("told"))
    assert stopped.pop("other") == "other.mha: no MetaImage that holds its own voxels."
    assert stopped == {"forgotten": True, "isFree": True, "isFocused": True, "whole": False}


def compare_with_predict(model, volume, mask, told, output):
    assert predict_main(["--model", str(model), str(volume), "--output", str(output), "--no-overlays"]) == 0
    found = [
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) for path in (mask, output / "masks" / volume.name)
    ]
    assert np.mean(found[0] == found[1]) >= 0.999 and set(np.unique(found[1])) == {0, 1, 2, 3}
    (whole,) = rows_of(output, "volumes")
    for key in ("slices", "height", "width", "spacing_slice_mm", "spacing_row_mm", "spacing_column_mm"):
        assert told[key] == float(whole[key])
    for one in told["class_scores"]:
        assert one["slices_labelled"] == int(whole[f"slices_labelled_{one['name']}"])
        assert one["highest_score"] == pytest.approx(float(whole[f"highest_score_{one['name']}"]), abs=1e-3)
    for one in told["mask_classes"]:
        assert one["slices_affected"] == int(whole[f"slices_affected_{one['name']}"])
        assert one["volume_mm3"] == pytest.approx(float(whole[f"volume_mm3_{one['name']}"]), rel=1e-3)


def test_threads_and_webgpu_answer_as_one_thread_does(small, phantom, tmp_path):
    """By the headers of the Space, and by `?device=webgpu` on a software adapter; no graphics card was tried."""
    grey = phantom[0][0][2]
    Image.fromarray(grey).save(tmp_path / "slice.png")
    headers = SpaceCard.load(small / "page" / "README.md").data.custom_headers
    with served(small / "page") as url, served(small / "page", headers) as isolated:
        shown = node("page_runtimes.mjs", url, isolated, tmp_path, CHROMIUM, tmp_path / "slice.png")
    (expected,) = onnx_answers(small / "page" / "model.onnx", [grey])
    assert re.fullmatch(r"Ready, on 2 threads\. .*", shown["threads"]["ready"]) and shown["threads"]["problems"] == []
    assert not [one for one in shown["threads"]["requests"] if "webgpu" in one or "asyncify" in one], (
        "on request alone"
    )
    assert shown["webgpu"]["ready"].startswith("Ready, on WebGPU") or not shown["webgpu"]["hasAdapter"]
    for one in (found for found in shown.values() if "answer" in found):
        assert np.mean(np.asarray(Image.open(one["mask"])) == expected["segmentation"][0]) >= 0.999
        scores = [each["score"] for each in json.loads(Path(one["answer"]).read_text())["class_scores"]]
        np.testing.assert_allclose(scores, expected["class_scores"][0], atol=1e-3)


def test_the_page_is_for_keyboards_and_screen_readers(page_url, phantom, screenshots, tmp_path):
    image = next(PHOTOGRAPHS.glob("*.jpg"))
    voxels, spacing = phantom[0]
    volume = SimpleITK.GetImageFromArray(voxels)
    volume.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(volume, str(tmp_path / "eye.mha"))
    shown = node("page_access.mjs", page_url, screenshots, CHROMIUM, image, tmp_path / "eye.mha")
    assert shown["problems"] == []
    states = {"loaded", "answered", "volume", "running", "whole", "dark", "phone"}
    assert {name: one["told"] for name, one in shown["axe"].items()} == {state: [] for state in states}
    assert min(one["passed"] for one in shown["axe"].values()) > 30, "axe-core looked at the page"
    first = ["Choose an image", "Take a photo", "Example 1", "Example 2", "Example 3"]
    toggles = ["lesion", "Opacity of the fill"]
    own, saving = ["Side of a pixel in mm, if you know it"], ["Save the mask (PNG)", "Save the answer (JSON)"]
    stops = {state: [one["name"] for one in found] for state, found in shown["stops"].items()}
    assert stops["loaded"] == first
    assert stops["answered"] == [*first, *toggles, *own, *saving]
    jump = [name for name in stops["whole"] if name.startswith("Show slice")]
    whole = ["Slice", "Analyse all 5 slices", *jump, "Every slice", "Every slice"]
    whole += ["Save the volume's mask (.mha)", "Save the volume's answer (JSON)"]
    assert stops["whole"] == [*first, *whole, *toggles, *saving]
    assert all(one["ring"] for found in shown["stops"].values() for one in found), "the focus can be seen"
    assert shown["toggled"] and shown["keepsFocus"] and shown["unfolded"]
    assert (shown["opacity"], shown["valueText"], shown["download"]) == ("26", "1 of 5", f"{image.stem}.json")
    tree = [(one["role"], one["name"]) for one in shown["tree"]]
    assert {"role": "status", "name": "", "live": "polite"} in shown["tree"]
    assert ("image", shown["answered"]) in tree, "what is drawn is told in words"
    assert {("region", "Image"), ("region", "Answer"), ("table", "Scores of the whole image"), ("main", "")} <= set(
        tree
    )
    assert ("table", "Scores over all 5 slices") in {(one["role"], one["name"]) for one in shown["wholeTree"]}


def printed(page, pdf):
    """The text of each sheet that Chromium prints of a file."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={pdf}"]
    profile = f"--user-data-dir={pdf.parent / 'profile'}"
    subprocess.run([CHROMIUM, *flags, profile, page.as_uri()], check=True, capture_output=True, timeout=120)
    return [sheet.extract_text() for sheet in PdfReader(pdf).pages]


def test_the_report_of_an_image_prints_on_one_sheet_and_that_of_a_volume_on_two_at_most(screenshots, tmp_path):
    tall = Image.open(next(PHOTOGRAPHS.glob("*.jpg"))).resize((600, 1100))
    tall.save(tmp_path / "tall.png")
    scan = np.random.default_rng(0).integers(0, 256, (6, 96, 128), dtype=np.uint8)
    volume = SimpleITK.GetImageFromArray(scan)
    volume.SetSpacing((0.01, 0.02, 0.1))
    SimpleITK.WriteImage(volume, str(tmp_path / "eye.mha"))
    photographs = sorted(PHOTOGRAPHS.glob("*.jpg"))[:3]
    inputs = [*map(str, photographs), str(tmp_path / "tall.png"), str(tmp_path / "eye.mha")]
    output = tmp_path / "out"
    assert predict_main(["--model", str(READY), *inputs, "--output", str(output), "--report"]) == 0
    for path in (*photographs, tmp_path / "tall.png"):
        (text,) = printed(output / "reports" / f"{path.stem}.html", screenshots / f"report_{path.stem}.pdf")
        for said in (
            path.stem,
            "Not a medical device",
            "melanoma",
            "evidence for",
            "Measurements",
            "SHA-256",
            READY.name,
        ):
            assert said in text
    sheets = printed(output / "reports" / "eye.html", screenshots / "report_eye.pdf")
    assert len(sheets) <= 2 and "from the front" in "".join(sheets) and "mm³" in "".join(sheets)
    worklist = "".join(printed(output / "worklist.html", screenshots / "worklist.pdf"))
    assert all(path.stem in worklist for path in photographs) and "eye" in worklist


@pytest.mark.parametrize("confidences", [(0.9, 0.4, 0.3), (0.9, 0.8, 0.7), None])
def test_the_page_doubts_a_whole_volume_as_the_report_does(confidences, tmp_path):
    """The slices' flags and doubt by the config, the volume's by the room of reports."""
    config = ResFormerConfig(
        distance_limit=1.5, confidence_limit=0.5, familiarity_components=1, classification_labels=["a"]
    )
    distances = (1.0, 1.2, 1.7 if confidences == (0.9, 0.4, 0.3) else 1.1)
    trusted = [config.trust(*values) for values in zip(distances, confidences or (None,) * 3, strict=True)]
    slices = [
        {
            "outputs": {
                **{"class_scores": [score], "predicted_classes": [score >= 0.5], "distance": [one["distance"]]},
                **({"confidence": [one["confidence"]]} if confidences else {}),
            },
            "pixels": [96, 4],
        }
        for score, one in zip((0.1, 0.7, 0.4), trusted, strict=True)
    ]
    metadata = {"image_classes": ["a"], "mask_classes": ["background", "b"], "thresholds": [0.5], "doubts": DOUBTS}
    metadata |= {"distance_limit": config.distance_limit, "confidence_limit": config.confidence_limit}
    volume = {"slices": slices, "width": 10, "height": 10, "spacing": [0.5, 0.1, 0.2]}
    (tmp_path / "given.json").write_text(json.dumps({"volume": volume, "metadata": metadata}))
    found = node("measuring.mjs", ROOT / "hub_cards" / "web" / "measuring.js", tmp_path / "given.json")
    expected = trust_told(trusted)
    assert (found["flags"], found["doubt"]) == (expected["flags"], expected["doubt"])
    assert found.get("confidence") == (None if confidences is None else float(expected["confidence"]))
    assert found["class_scores"] == [
        {"name": "a", "highest_score": 0.7, "threshold": 0.5, "predicted": True, "slices_labelled": 1}
    ]
    (outlined,) = found["mask_classes"]
    assert (outlined["voxels"], outlined["slices_affected"], outlined["largest_slice"]) == (12, 3, 0)
    assert outlined["volume_mm3"] == pytest.approx(0.12)


def test_the_pages_png_decoder_is_pillows(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (13, 11, 4), dtype=np.uint8)
    deep = generator.integers(0, 65536, (13, 11), dtype=np.uint16)
    photograph = Image.open(next(PHOTOGRAPHS.glob("*.jpg")))  # its lines take all filters
    images = {
        "photograph": photograph,
        "alpha": Image.fromarray(values),
        "grey": Image.fromarray(values[..., 0]),
        "grey_alpha": Image.fromarray(values).convert("LA"),
        "bits": Image.fromarray(values[..., 0]).convert("1"),
        "palette": photograph.quantize(200),
        "palette_4_bits": photograph.quantize(16),
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "photograph.png").read_bytes()[:9000])
    paths = [tmp_path / f"{name}.png" for name in (*images, "deep", "half")]
    *found, half = node("decoding.mjs", ROOT / "hub_cards" / "web" / "png.js", *paths)
    assert half == {"message": "the PNG file is damaged"}
    expected = [np.asarray(Image.open(path).convert("RGB")) for path in paths[: len(images)]]
    expected.append(np.repeat(np.round(deep / 257).astype(np.uint8)[..., None], 3, axis=2))
    for name, decoded, pixels in zip((*images, "deep"), found, expected, strict=True):
        ours = np.frombuffer(base64.b64decode(decoded["pixels"]), np.uint8)
        np.testing.assert_array_equal(ours.reshape(pixels.shape), pixels, err_msg=name)


def is_open(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
