"""Fixtures shared by the tests: a model of milliseconds and a seeded batch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
import torch
from answering_model import sample_image
from built_wheel import build_wheel
from hub_stand_in import StandInHub
from PIL import Image
from small_model import tiny_config

from modeling_resformer import ResFormerConfig, ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands.predict import main


if TYPE_CHECKING:
    from datasets import DatasetDict


@pytest.fixture
def config() -> ResFormerConfig:
    return tiny_config()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(2, 3, 48, 40, generator=generator),
        "mask_labels": torch.randint(0, 4, (2, 48, 40), generator=generator),
        "class_labels": torch.tensor([[1.0, 0.0, -100.0], [0.0, 1.0, 1.0]]),
    }


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def bytecode() -> Iterator[None]:
    """Processes that are started write bytecode, as they do for users, whatever the environment of the tests says."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def render() -> Iterator[Callable[..., None] | None]:
    """Report pages are laid out but not rendered, which is half the time of a small training; gives what renders them."""
    try:
        from modeling_resformer.evaluation import report_page
    except ModuleNotFoundError:  # the core alone makes none
        yield None
        return
    real = report_page.save
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report_page, "save", lambda figure, path: Image.new("RGB", (1, 1)).save(path))
        yield real


@pytest.fixture(scope="module")
def predict() -> Callable[[list[str]], int]:
    """`resformer predict` in this process."""
    return main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a model of random weights for one lesion and the labels a and b."""
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(id2label={0: "background", 1: "lesion"}, classification_labels=["a", "b"])
    ResFormerForMultiTask(config).save_pretrained(folder)
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dataset() -> "DatasetDict":
    """A small prepared dataset, unless a test file has one of its own."""
    from prepared_data import prepared_dataset  # datasets is no part of the core

    return prepared_dataset()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """What `answering_model.save_model` finds every class in."""
    return sample_image()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A Hub on this machine, which the Hub's client asks."""
    server = StandInHub().start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("built"))
