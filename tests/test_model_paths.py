"""A model that is not there: said at once where it can only be a path, and of a Hub id that no folder has that name."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from modeling_resformer.commands import predict
from modeling_resformer.errors import BadInputError, named_load_failure
from modeling_resformer.handler import Limits
from modeling_resformer.serving.server import Served, load_handler
from modeling_resformer.training.building import load_model


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    def refuse(*given, **settings):
        raise AssertionError("it was looked for on the Hub")

    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", refuse)
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", refuse)
    monkeypatch.setattr("transformers.utils.hub.cached_file", refuse)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    (tmp_path / "a.png").write_bytes(b"")


@pytest.mark.parametrize("name", ["runs/none", "a/b/c", "./none", "../none", "/none", "~/none"])
def test_what_can_only_be_a_path_is_refused_without_the_network(name, no_network, caplog):
    said = f"{name}: there is no such folder; expected"
    with pytest.raises(BadInputError, match=f"--model {said}"):
        load_model(name, None)
    assert predict.main(["--model", name, "a.png", "--output", "out", "--device", "cpu"]) == 1
    assert said in caplog.text
    with pytest.raises(BadInputError, match=said):
        load_handler(Served(name), Limits())


@pytest.mark.parametrize("name", ["owner/none", "none"])
def test_a_hub_id_that_fails_says_that_there_is_no_folder_either(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError) as caught, named_load_failure("--model", name, "a checkpoint"):
        raise OSError("We couldn't connect\nto the Hub.")
    assert str(caught.value) == (
        f"--model {name}: there is no such folder here, and looked for on the Hub: We couldn't connect; expected a "
        "checkpoint."
    )


def test_a_folder_that_is_there_is_loaded_or_says_its_own_reason(tmp_path):
    with pytest.raises(BadInputError) as caught, named_load_failure("--model", str(tmp_path), "a checkpoint"):
        AutoConfig.from_pretrained(tmp_path)
    assert "Hub:" not in str(caught.value)
