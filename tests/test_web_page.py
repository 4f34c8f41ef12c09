"""The folder of the page that runs a model in the browser; test_clients.py opens it in one."""

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("jinja2")
from modeling_resformer.errors import BadInputError
from modeling_resformer.publishing import web_page
from modeling_resformer.publishing.web_page import make_page


READY = Path(__file__).parents[1] / "hub_cards" / "resformer-lite-isic2017"
METADATA = {"weights": "0" * 64, "size": [224, 224], "mask_classes": ["background", "a", "b"], "thresholds": [0.5]}


def write_file(pipe, path):
    """In the place of the export, which takes many seconds: a file with metadata and no network."""
    model = onnx.helper.make_model(onnx.helper.make_graph([], "none", [], []))
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in METADATA.items()})
    onnx.save(model, path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package laid out as npm's, and the page's pin set to it."""
    path, pinned = tmp_path / "runtime.tgz", web_page.pinned_runtime()
    with tarfile.open(path, "w:gz") as archive:
        for name in (*pinned["files"], *pinned["webgpu_files"]):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(web_page, "pinned_runtime", lambda: {**pinned, "integrity": f"sha512-{digest}"})
    monkeypatch.setattr(web_page, "export", write_file)
    return path


def test_the_folder_is_complete(package, tmp_path):
    page = make_page(tmp_path / "page", None, "org/resformer-tiny", READY, package)
    told = json.loads((page / "model.json").read_text())
    assert (told["name"], told["metadata"], len(told["colours"])) == ("org/resformer-tiny", METADATA, 3)
    assert len(told["examples"]) == 3 and all((page / name).is_file() for name in told["examples"])
    assert "CC0" in told["licence"]
    loaded = [page / told["file"], page / "runtime" / "ort-wasm-simd-threaded.wasm"]
    assert (told["bytes"], told["webgpu_bytes"]) == (sum(path.stat().st_size for path in loaded), None)
    assert len(list((page / "runtime").iterdir())) == 4, "what only WebGPU needs is left out"
    scripts = "\n".join(path.read_text() for path in page.glob("*.js"))
    named = re.findall(r'(?:from |fetch\(|module: )"(?:\./)?([\w./-]+)"', scripts)
    named = [name for name in named if "webgpu" not in name]
    named += re.findall(r'(?:href|src)="([\w.]+)"', (page / "index.html").read_text())
    assert len(named) >= 15 and all((page / name).is_file() for name in named)
    assert "MIT" in (page / "runtime" / "LICENSE.txt").read_text()


def test_webgpu_lies_beside_the_plain_runtime_where_it_is_asked_for(package, tmp_path):
    page = make_page(tmp_path / "page", None, "org/resformer-tiny", None, package, webgpu=True)
    told = json.loads((page / "model.json").read_text())
    gpu = page / "runtime" / "ort-wasm-simd-threaded.asyncify.wasm"
    assert told["webgpu_bytes"] == (page / told["file"]).stat().st_size + gpu.stat().st_size
    worker = (page / "worker.js").read_text()
    for module, build in re.findall(r'module: "([\w./-]+)", build: "([\w./-]+)"', worker):
        assert all((page / name).is_file() for name in (module, f"{build}.mjs", f"{build}.wasm"))
    assert (page / "runtime" / "ort.wasm.min.mjs").is_file()


def test_the_hub_takes_it_as_a_static_space(package, tmp_path):
    page = make_page(tmp_path / "page", None, "org/resformer-tiny", None, package)
    card = SpaceCard.load(page / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.models) == ("static", "index.html", ["org/resformer-tiny"])
    assert card.data.custom_headers["cross-origin-opener-policy"] == "same-origin"
    assert card.data.custom_headers["cross-origin-embedder-policy"] == "require-corp"
    assert len(card.data.short_description) <= 60 and "{{" not in card.text


def test_nobody_elses_images_are_shown(package, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(READY, run)
    record = json.loads((run / "run.json").read_text())
    record["dataset"]["source"] = "retouch"
    (run / "run.json").write_text(json.dumps(record))
    page = make_page(tmp_path / "page", None, "org/x", run, package)
    assert json.loads((page / "model.json").read_text())["examples"] == [] and not (page / "examples").exists()


def test_another_runtime_is_refused_and_nothing_is_left(package, tmp_path):
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(BadInputError, match=r"runtime\.tgz: has the digest sha512-.* expects sha512-"):
        make_page(tmp_path / "page", None, "org/x", None, package)
    assert {path.name for path in tmp_path.iterdir()} == {"runtime.tgz"}


def test_without_npm_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInputError, match="npm, which is not installed; install npm, or give by --runtime"):
        make_page(tmp_path / "page", None, "org/x")


def test_another_folder_is_not_overwritten(package, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(BadInputError):
            make_page(tmp_path / "mine", None, "org/x", None, package, overwrite)
