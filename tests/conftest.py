"""Fixtures shared by the tests: a model of milliseconds and a seeded batch."""

from collections.abc import Callable

import pytest
import torch

from modeling_resformer import ResFormerConfig, ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands.predict import main


MASK_CLASSES = {0: "background", 1: "IRF", 2: "SRF", 3: "PED"}


def tiny_config(**overrides) -> ResFormerConfig:
    settings = {
        "hidden_sizes": [8, 16, 24, 32],
        "cnn_depths": [1, 1, 1, 1],
        "num_attention_heads": [2, 2, 2, 4],
        "window_size": 4,
        "dilation_rates": [1, 2],
        "drop_path_rate": 0.0,
        "id2label": MASK_CLASSES,
    }
    return ResFormerConfig(**{**settings, **overrides})


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
