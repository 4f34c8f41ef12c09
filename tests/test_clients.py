"""Clients that are not ours, driven for real: npm's client and widget against the server, and the Space, in Chromium.

`make test-clients` installs what they need and runs them.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from answering_model import NAMES, foreground, reference, sample_image, save_model
from http_requests import serving, until, wait_until_loaded
from PIL import Image

from modeling_resformer.publishing.space import make_space


CLIENTS = Path(__file__).parent / "clients"
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


def is_open(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
