"""`handler.py` as Inference Endpoints use it: loaded by its path, given images, bytes and base64, never a path."""

import base64
import json
import shutil
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from answering_model import NAMES, claiming_png, encoded, foreground, reference, save_model
from fresh_process import packages_without, run_as_stranger
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from small_model import tiny_config

from modeling_resformer import ResFormerForImageClassification, ResFormerImageProcessor, handler
from modeling_resformer.handler import EndpointHandler, Limits, Parameters, RequestError, classes, segments


def decoded_mask(segment: dict) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(segment["mask"], validate=True)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("handler") / "model")


@pytest.fixture(scope="module")
def endpoint(folder) -> EndpointHandler:
    return EndpointHandler(str(folder))


STRANGER = """
import importlib.util, json, sys
from pathlib import Path
from PIL import Image
assert importlib.util.find_spec("modeling_resformer") is None

# As the toolkit of Inference Endpoints does it.
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location("handler", Path(folder) / "handler.py")
sys.path.insert(0, folder)
handler = importlib.util.module_from_spec(spec)
sys.modules["handler"] = handler
spec.loader.exec_module(handler)
endpoint = handler.EndpointHandler(folder)
image = Image.open(folder + "/../image.png")
answers = [endpoint({"inputs": image}), endpoint({"inputs": image, "parameters": {"task": "both"}})]
print(json.dumps(answers))
"""


@pytest.mark.long
def test_a_stranger_loads_it_by_path_as_inference_endpoints_do(folder, image, tmp_path):
    shutil.copytree(folder, tmp_path / "repository")
    shutil.copy(handler.__file__, tmp_path / "repository")
    image.save(tmp_path / "image.png")
    packages = packages_without(tmp_path / "packages")
    output, _ = run_as_stranger(STRANGER, packages, str(tmp_path / "repository"))
    segmentation, both = json.loads(output.splitlines()[-1])
    mask, scores = reference(folder, image)
    assert both["segmentation"] == segmentation
    assert [one["label"] for one in segmentation] == foreground(mask) == NAMES[1:]
    for segment in segmentation:
        image = decoded_mask(segment)
        assert (image.format, image.mode, image.size) == ("PNG", "L", (70, 60))
        np.testing.assert_array_equal(np.asarray(image), (mask == NAMES.index(segment["label"])) * 255)
        assert isinstance(segment["score"], float) and 0 < segment["score"] <= 1
    assert {one["label"]: one["score"] for one in both["classification"]} == pytest.approx(scores, abs=1e-5)
    assert both["predicted_labels"] == [name for name, score in scores.items() if score >= 0.5]


@contextmanager
def toolkit(endpoint):
    """The handler behind HTTP, called as the toolkit of Inference Endpoints calls it; yields its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                if self.headers["Content-Type"].startswith("image/"):
                    data = {"inputs": Image.open(BytesIO(body)).convert("RGB")}
                else:
                    data = json.loads(body)
                status, answer = 200, endpoint(data)
            except Exception as error:
                status, answer = 400, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_python_client_on_an_inference_endpoint(endpoint, folder, image, tmp_path):
    image.save(tmp_path / "image.png")
    mask, _ = reference(folder, image)
    with toolkit(endpoint) as url:
        client = InferenceClient(model=url)
        found = client.image_segmentation(tmp_path / "image.png")
        assert [one.label for one in found] == foreground(mask)
        for one in found:
            np.testing.assert_array_equal(np.asarray(one.mask), (mask == NAMES.index(one.label)) * 255)
        # With parameters the client sends base64 in JSON.
        best = max(found, key=lambda one: one.score)
        strict = client.image_segmentation((tmp_path / "image.png").read_bytes(), threshold=best.score - 1e-6)
        assert [one.label for one in strict] == [best.label]
        with pytest.raises(HfHubHTTPError, match="expected a number from 0 to 1"):
            client.image_segmentation(tmp_path / "image.png", threshold=2)


def test_images_bytes_and_base64_give_one_answer(endpoint, image):
    data = encoded(image)
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    expected = endpoint({"inputs": image})
    for inputs in (data, bytearray(data), text, f"data:image/png;base64,{text}", wrapped):
        assert endpoint({"inputs": inputs}) == expected
    assert endpoint({"inputs": text, "parameters": None}) == expected


def test_masks_and_scores_against_numbers_worked_by_hand():
    # Two classes; pixel probabilities of the second: 0.9, 0.6, 0.4, 0.2.
    lesion = torch.tensor([[0.9, 0.6], [0.4, 0.2]])
    logits = torch.stack([1 - lesion, lesion]).log()

    def answered(**given):
        found = segments(logits, ["background", "lesion"], Parameters.from_request(given))
        return [(one["label"], one["score"], np.asarray(decoded_mask(one)).tolist()) for one in found]

    whole = [("lesion", pytest.approx(0.75), [[255, 255], [0, 0]])]
    assert answered() == whole
    assert answered(threshold=0.74) == whole
    assert answered(threshold=0.76) == []
    assert answered(mask_threshold=0.7) == [("lesion", pytest.approx(0.9), [[255, 0], [0, 0]])]
    # It is at least 0.3 probable at three pixels, of which it has two.
    assert answered(mask_threshold=0.3, overlap_mask_area_threshold=0.66) == whole
    assert answered(mask_threshold=0.3, overlap_mask_area_threshold=0.67) == []
    assert segments(torch.stack([lesion, lesion - 1]), ["background", "lesion"], Parameters()) == []


def test_class_scores_against_numbers_worked_by_hand():
    logits = torch.tensor([0.0, 1.0986123, -1.0986123])  # sigmoids 1/2, 3/4, 1/4; exponentials 1, 3, 1/3
    config = tiny_config(classification_labels=["a", "b", "c"])

    def answered(**given):
        return [
            (one["label"], pytest.approx(one["score"]))
            for one in classes(logits, config, Parameters.from_request(given))
        ]

    assert answered() == [("b", 0.75), ("a", 0.5), ("c", 0.25)]
    assert answered(top_k=1, function_to_apply="softmax") == [("b", 9 / 13)]
    assert answered(top_k=9, function_to_apply="none") == [("b", 1.0986123), ("a", 0.0), ("c", -1.0986123)]
    config = tiny_config(classification_labels=["a", "b", "c"], classification_type="exclusive")
    assert answered() == [("b", 9 / 13), ("a", 3 / 13), ("c", 1 / 13)]
    assert answered(function_to_apply="sigmoid") == [("b", 0.75), ("a", 0.5), ("c", 0.25)]


def test_masks_are_upright_where_exif_says_so(endpoint, image):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = encoded(image, exif=exif)
    upright = encoded(image.transpose(Image.Transpose.ROTATE_270))
    answer = endpoint({"inputs": turned})
    assert answer == endpoint({"inputs": upright})
    assert decoded_mask(answer[0]).size == (60, 70)


def test_sixteen_bits_are_kept(endpoint):
    grey = np.random.default_rng(0).integers(0, 256, (60, 70), dtype=np.uint8)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)  # 255 * 257 = 65535: the same shares of full scale
    # A loader that clips to 8 bits would see white nearly everywhere.
    expected = endpoint({"inputs": encoded(Image.fromarray(grey)), "parameters": {"task": "classification"}})
    found = endpoint({"inputs": encoded(deep), "parameters": {"task": "classification"}})
    assert found == [{"label": one["label"], "score": pytest.approx(one["score"], abs=0.02)} for one in expected]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_every_kind_of_image_is_answered(endpoint, image, mode, kind):
    converted = Image.fromarray(np.full((60, 70), 40000, np.uint16)) if mode == "I;16" else image.convert(mode)
    try:
        data = encoded(converted, kind)
    except (OSError, ValueError) as error:
        assert "mode" in str(error)  # Pillow does not write this combination
        return
    for one in endpoint({"inputs": data}):
        assert decoded_mask(one).size == (70, 60)


@pytest.mark.parametrize(
    "inputs",
    ["/etc/passwd", "/etc/hosts0", "file:///etc/passwd", "http://127.0.0.1:{port}/a.png", "data:text/html,<b>"],
)
def test_strings_are_never_paths_or_urls(endpoint, inputs):
    opened, watching = [], [True]
    sys.addaudithook(
        lambda event, arguments: (
            opened.append((event, str(arguments[:1])))
            if watching[0] and event in ("open", "socket.connect", "socket.getaddrinfo")
            else None
        )
    )
    with pytest.raises(RequestError) as caught:
        endpoint({"inputs": inputs.format(port=9)})
    watching[0] = False
    assert opened == []
    assert caught.value.status == 400 and "\n" not in str(caught.value)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"


@pytest.mark.parametrize(
    ("inputs", "status", "message"),
    [
        (b"", 400, "empty"),
        ("", 400, "empty"),
        (b"nothing", 400, "no known image format"),
        (SVG, 400, "no known image format"),
        (b"<html><img src=x></html>", 400, "no known image format"),
        (EPS, 400, "no known image format"),
        (None, 400, "missing"),
        (["/etc/passwd"], 400, "is a list"),
        ({"url": "http://127.0.0.1"}, 400, "is a dict"),
        (claiming_png(100, 100), 400, "not a readable image"),
        (claiming_png(60_000, 60_000), 413, "too large|more than"),
        (claiming_png(8_000, 8_000), 413, "8000 x 8000 pixels, more than 40 million"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), 400, "not a readable image"),
        (bytes(33 * 2**20), 413, "larger than 32 MiB"),
        ("A" * (44 * 2**20), 413, "larger than 32 MiB"),
        (Image.new("1", (8000, 8000)), 413, "8000 x 8000"),
    ],
)
def test_what_is_no_usable_image_is_one_line(endpoint, inputs, status, message):
    with pytest.raises(RequestError, match=message) as caught:
        endpoint({"inputs": inputs})
    assert caught.value.status == status
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_damaged_files_are_refused_wherever_they_are_cut(endpoint, image):
    limits, open_upright = Limits(), endpoint.image_processor.open_upright
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "GIF"):
        data = encoded(image, kind)
        for share in (0.1, 0.5, 0.9):
            with pytest.raises(RequestError, match="not a readable image"):
                handler.open_input(data[: int(len(data) * share)], limits, open_upright)
    pages = encoded(image, "TIFF", save_all=True, append_images=[image])
    with pytest.raises(RequestError, match="several pages is a volume"):
        handler.open_input(pages, limits, open_upright)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5; expected a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"mask_threshold": "0.5"}, "mask_threshold is '0.5'"),
        ({"overlap_mask_area_threshold": True}, "overlap_mask_area_threshold is True"),
        ({"top_k": 0}, "top_k is 0; expected an integer from 1"),
        ({"top_k": 2.0}, "top_k is 2.0"),
        ({"task": "detection"}, "task is 'detection'; expected one of segmentation"),
        ({"task": ["both"]}, "task is"),
        ({"function_to_apply": "exp"}, "expected one of sigmoid, softmax, none"),
        ({"subtask": "panoptic"}, "use 'semantic'"),
        ({"subtask": "x" * 9999}, "expected one of instance, panoptic, semantic"),
        ({"__class__": 1}, "parameters.__class__ is unknown"),
        (["both"], "parameters is a list"),
    ],
)
def test_bad_parameters_are_one_line(endpoint, image, parameters, message):
    with pytest.raises(RequestError, match=message) as caught:
        endpoint({"inputs": image, "parameters": parameters})
    assert caught.value.status == 422 and len(str(caught.value)) < 250


def test_a_checkpoint_of_one_task_answers_that_task_only(tmp_path, image):
    ResFormerForImageClassification(tiny_config()).save_pretrained(tmp_path)
    ResFormerImageProcessor(size={"height": 48, "width": 64}).save_pretrained(tmp_path)
    half = EndpointHandler(str(tmp_path))
    assert len(half({"inputs": image, "parameters": {"task": "image-classification"}})) == 3
    with pytest.raises(RequestError, match="trained without segmentation; it answers classification"):
        half({"inputs": image})


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(endpoint):
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert endpoint({"inputs": data})  # with its ten scans or so
    last = data.rindex(b"\xff\xda")
    scan = data[last : data.rindex(b"\xff\xd9")]
    with pytest.raises(RequestError, match=r"A JPEG of 5\d\d scans takes too long") as caught:
        endpoint({"inputs": data[:last] + 500 * scan + b"\xff\xd9"})
    assert caught.value.status == 413


def test_a_jpeg_of_endless_scans_does_not_pass_as_several_pictures(endpoint):
    white, buffer = Image.new("RGB", (64, 64), "white"), BytesIO()
    white.save(buffer, "MPO", save_all=True, append_images=[white])
    data = buffer.getvalue()
    assert endpoint({"inputs": data})
    with pytest.raises(RequestError, match=r"A JPEG of \d+ scans takes too long"):
        endpoint({"inputs": data + 500 * b"\xff\xda"})
