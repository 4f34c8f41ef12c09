"""`scripts/serve.py`: real Python clients, statuses, limits, the queue, and what must never be opened or logged."""

import asyncio
import base64
import http.client
import json
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from answering_model import NAMES, claiming_png, encoded, foreground, reference, save_model
from hostile_images import endless_jpeg, many_pages
from http_requests import ask, serving, until, wait_until_loaded
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from modeling_resformer.commands import serve
from modeling_resformer.handler import EndpointHandler, Limits


uvicorn = pytest.importorskip("uvicorn")
from modeling_resformer.serving.app import ROUTES, ServerSettings, create_app
from modeling_resformer.serving.decoding import Decoders
from modeling_resformer.serving.patience import PatientProtocol


ROOT = Path(__file__).parents[1]
KEY = "hf_thisMustNeverBeSeen"
PAGE = "https://example.org"


@contextmanager
def running(load, **settings):
    """Runs the application in a thread, as the script runs it; yields its port."""
    app = create_app(load, ServerSettings(**settings), lambda error: None)
    config = uvicorn.Config(app, http=PatientProtocol, log_config=None, access_log=False, ws="none", lifespan="on")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("serve") / "model")


@pytest.fixture(scope="module")
def port(folder):
    limits = Limits(max_bytes=200_000, max_pixels=100_000)
    settings = {"limits": limits, "seconds": 30, "origins": (PAGE,)}
    with running(lambda: EndpointHandler(str(folder), limits=limits), **settings) as port:
        wait_until_loaded(port)
        yield port


class SlowHandler:
    """A model that answers when it is told to."""

    tasks = ("segmentation",)
    model = SimpleNamespace(device=SimpleNamespace(type="cpu"), config=SimpleNamespace(model_type="slow"))

    def __init__(self):
        self.go, self.begun = threading.Event(), 0

    def __call__(self, data):
        self.begun += 1
        assert self.go.wait(30)
        return [{"label": "lesion", "score": 1.0, "mask": ""}]


# ---------------------------------------------------------------------------------------------------------------------
# Clients
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["", "/models/org/resformer", "/image-segmentation"])
def test_the_python_client_gets_masks(port, folder, image, tmp_path, route):
    image.save(tmp_path / "image.png")
    client = InferenceClient(model=f"http://127.0.0.1:{port}{route}", token=KEY)
    expected, _ = reference(folder, image)
    for given in (tmp_path / "image.png", str(tmp_path / "image.png"), encoded(image)):
        found = client.image_segmentation(given)
        assert [one.label for one in found] == foreground(expected)
        for one in found:
            assert one.mask.mode == "L" and isinstance(one.score, float)
            np.testing.assert_array_equal(np.asarray(one.mask), (expected == NAMES.index(one.label)) * 255)
    # With parameters the client sends base64 in JSON.
    best = max(found, key=lambda one: one.score)
    strict = client.image_segmentation(tmp_path / "image.png", threshold=best.score - 1e-6, subtask="semantic")
    assert [one.label for one in strict] == [best.label]


@pytest.mark.parametrize("route", ["/image-classification", "/image-classification/models/org/resformer"])
def test_the_python_client_gets_classes(port, folder, image, route):
    client = InferenceClient(model=f"http://127.0.0.1:{port}{route}")
    _, scores = reference(folder, image)
    found = client.image_classification(encoded(image))
    assert {one.label: one.score for one in found} == pytest.approx(scores, abs=1e-5)
    (best,) = client.image_classification(encoded(image), top_k=1)
    assert best.label == max(scores, key=scores.get)
    with pytest.raises(HfHubHTTPError, match="top_k is 0"):
        client.image_classification(encoded(image), top_k=0)


def test_the_task_is_chosen_by_route_or_parameter(port, image):
    text = base64.b64encode(encoded(image)).decode()
    body = {task: json.dumps({"inputs": text, "parameters": {"task": task}}) for task in ("classification", "both")}
    _, _, segmentation = ask(port, body=json.dumps({"inputs": text}))
    _, _, classification = ask(port, body=body["classification"], headers={"Content-Type": "application/json"})
    _, headers, both = ask(port, path="/predict", body=encoded(image), headers={"Content-Type": "image/png"})
    assert both.pop("predicted_labels") is not None
    assert both == {"segmentation": segmentation, "classification": classification}
    assert ask(port, body=body["both"])[2]["segmentation"] == segmentation
    assert headers["content-type"] == "application/json" and float(headers["x-compute-time"]) > 0


@pytest.mark.parametrize("kind", [None, "image/png", "application/octet-stream", "application/json", "text/plain"])
def test_raw_bytes_are_taken_under_any_name_clients_give_them(port, image, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    assert ask(port, body=encoded(image), headers=headers)[0] == 200


def test_browsers_may_ask_and_read_every_answer(port, image):
    asks = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-load-model",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("OPTIONS", "/models/org/x", headers=asks)
    response = connection.getresponse()
    assert response.status == 200 and response.headers["access-control-allow-origin"] == PAGE
    assert response.headers["access-control-allow-headers"] == asks["Access-Control-Request-Headers"]
    connection.close()
    for body in (encoded(image), b"no image"):
        assert ask(port, body=body, headers={"Origin": PAGE})[1]["access-control-allow-origin"] == PAGE


def test_other_web_pages_may_not(port, image):
    for origin in ("https://example.com", "null"):
        status, headers, answer = ask(port, body=encoded(image), headers={"Origin": origin})
        assert status == 403 and "access-control-allow-origin" not in headers and "--allow-origin" in answer["error"]


def test_state_is_told_as_the_widget_reads_it(port):
    assert ask(port, "GET", "/status/org/resformer")[2] == {
        "loaded": True,
        "state": "Loaded",
        "compute_type": "cpu",
        "framework": "transformers",
    }
    information = ask(port, "GET")[2]
    assert information["mask_classes"] == NAMES and "Not a medical device" in information["notice"]
    assert ask(port, "GET", "/health")[0] == 200


# ---------------------------------------------------------------------------------------------------------------------
# Bad requests
# ---------------------------------------------------------------------------------------------------------------------

PNG = encoded(Image.new("RGB", (20, 20)))


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        ("POST", "/", b"", None, 400),
        ("POST", "/", b"no image", None, 400),
        ("POST", "/", b'{"inputs": ', "application/json", 400),
        ("POST", "/", b"[" * 100_000, "application/json", 400),
        ("POST", "/", b'["/etc/passwd"]', "application/json", 400),
        ("POST", "/", b'{"parameters": {}}', "application/json", 400),
        ("POST", "/", b'{"inputs": {"url": "http://127.0.0.1"}}', "application/json", 400),
        ("POST", "/", b"<svg><image href='file:///etc/passwd'/></svg>", "image/svg+xml", 400),
        ("POST", "/", b"<html></html>", "text/html", 415),
        ("POST", "/", b"--x\r\n", "multipart/form-data; boundary=x", 415),
        ("POST", "/", b'{"inputs": "%s", "parameters": {"threshold": NaN}}' % base64.b64encode(PNG), None, 422),
        ("POST", "/", b'{"inputs": "%s", "parameters": [1]}' % base64.b64encode(PNG), None, 422),
        ("POST", "/", PNG[:45], "image/png", 400),
        ("POST", "/", claiming_png(60_000, 60_000), "image/png", 413),
        ("POST", "/", claiming_png(1000, 1000), "image/png", 413),
        ("POST", "/", bytes(201_000), "image/png", 413),
        ("POST", "/", b'{"inputs": "\\ud800"}', "application/json", 400),
        ("POST", "/", b'{"inputs": "a", "parameters": {"\\ud800": 1}}', "application/json", 422),
        ("POST", "/", b'{"inputs": ' + b"9" * 5000 + b"}", "application/json", 400),
        ("POST", "/nothing", PNG, None, 404),
        ("GET", "/predict", None, None, 405),
        ("DELETE", "/models/org/x", None, None, 405),
    ],
)
def test_bad_requests_are_json_with_the_right_status(port, method, path, body, kind, status):
    found, headers, answer = ask(port, method, path, body, {} if kind is None else {"Content-Type": kind})
    assert found == status
    assert set(answer) == {"error"} and "\n" not in answer["error"] and "Traceback" not in answer["error"]
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("told", [True, False])
def test_a_body_of_a_hundred_megabytes_is_refused_without_being_held(port, told):
    def pieces():
        for _ in range(100):
            yield bytes(2**20)

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Length": str(100 * 2**20)} if told else {}
    before = peak_memory()
    try:
        connection.request("POST", "/", pieces(), headers, encode_chunked=not told)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):  # the server hung up on us before we had sent it all
        status = 413
    connection.close()
    assert status == 413
    assert peak_memory() - before < 20 * 2**20


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("where", ["path", "file", "http"])
def test_paths_and_urls_are_never_opened(port, image, tmp_path, where):
    (tmp_path / "aaaa").write_bytes(encoded(image))  # a name that is base64 as well
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        inputs = {
            "path": str(tmp_path / "aaaa"),
            "file": f"file://{tmp_path}/aaaa",
            "http": f"http://127.0.0.1:{listener.getsockname()[1]}/aaaa",
        }[where]
        status, _, answer = ask(port, body=json.dumps({"inputs": inputs}))
        with suppress(TimeoutError):
            asked.append(listener.accept())
    assert status == 400 and asked == []
    assert "paths and URLs are not opened" in answer["error"] or "not a readable image" in answer["error"]


def test_a_failure_of_ours_is_told_without_its_trace(caplog):
    class Broken(SlowHandler):
        def __call__(self, data):
            raise RuntimeError("secret detail")

    with running(Broken) as port:
        wait_until_loaded(port)
        status, _, answer = ask(port, body=PNG)
    assert status == 500 and "secret" not in answer["error"]
    assert "secret detail" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# The queue
# ---------------------------------------------------------------------------------------------------------------------


def in_background(results, *arguments, **named):
    thread = threading.Thread(target=lambda: results.append(ask(*arguments, **named)))
    thread.start()
    return thread


def test_while_the_model_loads_clients_are_told_to_come_again():
    may_load, slow = threading.Event(), SlowHandler()
    slow.go.set()

    def load():
        assert may_load.wait(30)
        return slow

    with running(load) as port:
        status, headers, answer = ask(port, body=PNG)
        assert status == 503 and headers["retry-after"] == "1"
        assert isinstance(answer["estimated_time"], float)  # the widget shows "loading" where it finds this
        assert ask(port, "GET", "/status/org/x")[2]["loaded"] is False
        assert ask(port, "GET", "/health")[0] == 503
        results = []
        waiting = in_background(results, port, body=PNG, headers={"X-Wait-For-Model": "true"})
        time.sleep(0.2)
        assert results == []
        may_load.set()
        waiting.join()
        assert results[0][0] == 200


def test_who_waits_for_the_model_is_answered_though_decoders_are_slow_to_start(monkeypatch):
    async def start(decoders):
        await asyncio.sleep(5)

    monkeypatch.setattr(Decoders, "start", start)
    slow = SlowHandler()
    slow.go.set()
    with running(lambda: slow) as port:
        assert ask(port, body=PNG, headers={"X-Wait-For-Model": "true"})[0] == 200


def test_one_is_answered_some_wait_and_the_rest_are_sent_away():
    slow = SlowHandler()
    with running(lambda: slow, waiting=2) as port:
        wait_until_loaded(port)
        results = []
        threads = [in_background(results, port, body=PNG) for _ in range(3)]
        until(lambda: ask(port, "GET", "/health")[2]["free_places"] == 0)
        status, headers, _ = ask(port, body=PNG)
        assert status == 503 and headers["retry-after"] == "1"
        assert "2 requests are waiting" in ask(port, body=bytes(10_000_000))[2]["error"]
        slow.go.set()
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in results] == [200] * 3
        assert ask(port, body=PNG)[0] == 200, "places are given back"


def test_requests_that_take_too_long_are_ended_and_forgotten():
    slow = SlowHandler()
    with running(lambda: slow, seconds=1.0) as port:
        wait_until_loaded(port)
        results = []
        threads = [in_background(results, port, body=PNG) for _ in range(2)]
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in results] == [504] * 2
        assert slow.begun == 1, "the one that waited is never begun"
        slow.go.set()
        until(lambda: ask(port, body=PNG)[0] == 200)


def test_a_body_that_does_not_arrive_and_a_client_that_leaves():
    slow = SlowHandler()
    with running(lambda: slow, seconds=0.5, waiting=1) as port:
        wait_until_loaded(port)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
            assert b"408" in connection.recv(1000).split(b"\r\n")[0]
        for _ in range(4):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            time.sleep(0.05)
            # Reset instead of an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        slow.go.set()
        until(lambda: ask(port, body=PNG)[0] == 200)


# ---------------------------------------------------------------------------------------------------------------------
# The script
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_script_serves_logs_no_secret_and_ends_in_peace(folder, image):
    process = serving(folder, stderr=subprocess.PIPE)
    address = process.stdout.readline().strip()
    port = int(address.rpartition(":")[2])
    wait_until_loaded(port)
    text = base64.b64encode(encoded(image)).decode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    assert ask(port, path=f"/models/x?api_key={KEY}", body=json.dumps({"inputs": text}), headers=headers)[0] == 200
    assert ask(port, body=json.dumps({"inputs": text[:-9]}), headers=headers)[0] == 400
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "'/models/x' 200" in log and "'/' 400" in log
    assert KEY not in log and text[:40] not in log and "Traceback" not in log


def test_what_cannot_be_served_is_one_line(tmp_path, caplog, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "resformer"}')
    assert serve.main([str(tmp_path), "--port", "0"]) == 1
    assert str(tmp_path) in caplog.messages[-1] and "\n" not in caplog.messages[-1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve.main([str(tmp_path), "--port", str(taken.getsockname()[1])]) == 1
        assert "in use" in caplog.messages[-1]
    for flags in (["--queue", "-1"], ["--seconds", "nan"], ["--cpu-threads", "0"]):
        with pytest.raises(SystemExit, match="2"):
            serve.main([str(tmp_path), *flags])
        assert flags[0] in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Who wears it out
# ---------------------------------------------------------------------------------------------------------------------


def test_an_image_that_never_ends_is_given_up_while_others_are_answered():
    slow = SlowHandler()
    slow.go.set()
    with running(lambda: slow, decode_seconds=1.0) as port:
        wait_until_loaded(port)
        results = []
        attack = in_background(results, port, body=endless_jpeg(scans=20_000))
        start = time.monotonic()
        assert ask(port, body=PNG)[0] == 200
        assert time.monotonic() - start < 60
        attack.join()
        assert results[0][0] == 413 and "not decoded within 1 s" in results[0][2]["error"]
        assert ask(port, body=many_pages())[0] == 400
        assert ask(port, body=PNG)[0] == 200


def test_who_sends_nothing_keeps_nobody_out():
    slow = SlowHandler()
    slow.go.set()
    with running(lambda: slow, waiting=1, seconds=20) as port:
        wait_until_loaded(port)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for connection in idle:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0123456789")
        assert ask(port, body=PNG)[0] == 200
        for connection in idle:
            connection.close()


def test_half_a_head_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.3)
    slow = SlowHandler()
    slow.go.set()
    with running(lambda: slow) as port:
        wait_until_loaded(port)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(30)
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-More: ")
            assert connection.recv(10) == b""
        with socket.create_connection(
            ("127.0.0.1", port)
        ) as connection:  # a request that is complete has all its time
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(PNG))
            time.sleep(0.6)
            connection.sendall(PNG)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_bodies_that_arrive_together_have_a_limit():
    slow = SlowHandler()
    slow.go.set()
    with running(lambda: slow, held_bytes=50_000) as port:
        wait_until_loaded(port)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + bytes(40_000))
            until(lambda: ask(port, body=bytes(20_000))[0] == 503)
            assert ask(port, body=PNG)[0] == 200
        until(lambda: ask(port, body=bytes(20_000))[0] == 400)


def test_a_token_is_asked_for_but_not_of_who_watches_the_server(folder, image):
    with running(lambda: EndpointHandler(str(folder)), token=KEY) as port:
        wait_until_loaded(port)
        assert ask(port, "GET", "/live")[0] == ask(port, "GET", "/ready")[0] == 200
        for headers in ({}, {"Authorization": "Bearer hf_wrong"}, {"Authorization": KEY}):
            status, found, answer = ask(port, body=encoded(image), headers=headers)
            assert status == 401 and found["www-authenticate"] == "Bearer" and KEY not in answer["error"]
        assert ask(port, "GET", "/openapi.json")[0] == 401
        client = InferenceClient(model=f"http://127.0.0.1:{port}", token=KEY)
        assert client.image_segmentation(encoded(image))


def test_a_token_is_one_word_of_a_file(tmp_path, caplog):
    (tmp_path / "token").write_text("short\n")
    assert serve.main([str(tmp_path), "--token-file", str(tmp_path / "token")]) == 1
    assert str(tmp_path / "token") in caplog.messages[-1]
    assert serve.main([str(tmp_path), "--token-file", str(tmp_path / "none")]) == 1
    (tmp_path / "token").write_text(f"{KEY}\n")
    assert serve.read_token(tmp_path / "token") == KEY


def test_the_description_names_every_route_and_what_each_answers(port, image):
    document = ask(port, "GET", "/openapi.json")[2]
    assert document["openapi"].startswith("3.1")
    posts = {path for path, methods in document["paths"].items() if "post" in methods}
    assert posts == {path.replace(":path", "") for path in ROUTES}
    for path in document["paths"]:
        place = path.replace("{model_id}", "org/model")
        for method in document["paths"][path]:
            status = ask(port, method.upper(), place, encoded(image) if method == "post" else None)[0]
            assert str(status) in document["paths"][path][method]["responses"]


@pytest.mark.slow
def test_what_the_description_promises_holds_for_what_nobody_would_send(port):
    """`pip install schemathesis`, which is no requirement of ours: it sends what fits the description, and what does not."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    for found in schema.get_all_operations():

        @given(case=found.ok().as_strategy())
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def check(case):
            # A text that is no image fits the description as well as one that is.
            case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60)

        check()
