"""Folders of models that lie: refused in one line that names them, before anything is built, and no code of theirs is run."""

import json
import shutil
import socket
import time

import pytest
import torch
from raw_data import write_photograph
from run_here import run_command
from safetensors.torch import load_file, save_file

from modeling_resformer import ResFormerConfig
from modeling_resformer.configuration_resformer import problem_of_name
from modeling_resformer.errors import BadInputError
from modeling_resformer.escaping import plain_name
from modeling_resformer.prediction.predictor import load_pipeline
from modeling_resformer.publishing.card_tables import markdown_table


CPU = torch.device("cpu")


@pytest.fixture
def copy(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy", ignore=shutil.ignore_patterns("*.py"))
    return tmp_path / "copy"


def changed(copy, name="config.json", **fields):
    path = copy / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def problem_of(copy):
    start = time.monotonic()
    with pytest.raises(BadInputError) as caught:
        load_pipeline(str(copy), None, CPU)
    message = str(caught.value)
    assert "\n" not in message and str(copy) in message and len(message) < 1000
    assert time.monotonic() - start < 60
    return message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"window_size": "7"}, "window_size"),
        ({"window_size": 10**9}, "window_size=1000000000"),
        ({"hidden_sizes": [8, 16, 24, 10**9]}, "hidden_sizes"),
        ({"cnn_depths": [1, 1, 1, 10**9]}, "cnn_depths"),
        ({"hidden_sizes": [4096, 4096, 4096, 4096]}, "many times what the weights beside it hold"),
        ({"id2label": {"0": "background", "1": "a\nb"}}, "control character"),
        ({"id2label": {str(index): f"c{index}" for index in range(300)}}, "300 classes"),
        ({"backbone_config": {"model_type": "resnet", "depths": [10**9]}}, "backbone_config.depths"),
        ({"dtype": 3}, ""),
    ],
)
def test_a_config_that_lies(copy, fields, reason):
    changed(copy, **fields)
    assert reason in problem_of(copy)


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "[" * 3000, "[1]", "3", "\xff", ""])
def test_a_config_that_is_none(copy, content):
    (copy / "config.json").write_bytes(content.encode("latin-1"))
    problem_of(copy)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": {"height": 10**9, "width": 10**9}},
        {"size": {"height": "32", "width": 32}},
        {"image_mean": "x"},
        {"image_std": [0, 0, 0]},
        {"image_mean": [0.5] * 4},
        {"rescale_factor": None},
        {"rescale_factor": 0},
        {"auto_map": {"AutoImageProcessor": {}}},
        {"resample": 99},
        {"intensity_range": [1]},
        {"do_resize": "yes"},
        {"image_processor_type": "ViTImageProcessor"},
    ],
)
def test_an_image_processor_that_lies(copy, fields):
    changed(copy, "preprocessor_config.json", **fields)
    assert "expected" in problem_of(copy)


def test_weights_of_another_shape(copy):
    weights = load_file(copy / "model.safetensors")
    weights["segmentation_head.classifier.bias"] = torch.zeros(7)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    problem_of(copy)


@pytest.mark.parametrize("damage", ["pickle", "truncated"])
def test_weights_that_are_no_safetensors(copy, damage, tmp_path):
    if damage == "pickle":
        (copy / "model.safetensors").unlink()
        torch.save({"a": Bomb(tmp_path / "ran")}, copy / "pytorch_model.bin")
    else:
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[:1000])
    problem_of(copy)
    assert not (tmp_path / "ran").exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("kind", ["config.json", "preprocessor_config.json"])
def test_code_of_the_folder_is_neither_run_nor_asked_about(copy, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    text = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil:\n    pass\n"
    (copy / "evil.py").write_text(text)
    auto = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoImageProcessor": "evil.Evil"}
    fields = {"model_type": "evil"} if kind == "config.json" else {"image_processor_type": "Evil"}
    changed(copy, kind, auto_map=auto, **fields)
    problem_of(copy)
    assert not (tmp_path / "ran").exists()


def test_nothing_is_asked_of_the_network(model, tmp_path, predict, monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"the network was asked: {arguments}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    write_photograph(tmp_path / "mine" / "images" / "a.png", size=(20, 16))
    source = ["--source", tmp_path / "mine", "--output", tmp_path / "prepared"]
    assert run_command("prepare_folder", *source) == 0
    assert predict([model, str(tmp_path / "mine" / "images"), "--output", str(tmp_path / "out")]) == 0


# Names -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00", "\ud800", "x" * 201, 3, None])
def test_a_name_that_no_table_can_hold(name):
    assert problem_of_name(name)
    with pytest.raises(Exception, match="id2label"):
        ResFormerConfig(id2label={0: "background", 1: name})


def test_names_are_text_in_a_card():
    assert plain_name("seborrheic_keratosis") == "seborrheic_keratosis"
    assert plain_name("Δ lesion (benign)") == "Δ lesion (benign)"
    for name, shown in {
        "<script>alert(1)</script>": "&lt;script&gt;alert(1)&lt;/script&gt;",
        "![x](http://a.example/b.png)": r"!\[x\](http://a.example/b.png)",
        "a|b": r"a\|b",
        "`a` *b* _c_": r"\`a\` \*b\* \_c\_",
        "a\n# b": "a # b",
        "$x$": r"\$x\$",
    }.items():
        assert plain_name(name) == shown
    assert markdown_table(["class"], [[plain_name("a|b")], ["c|d"]]).splitlines()[2:] == [r"| a\|b |", r"| c\|d |"]
