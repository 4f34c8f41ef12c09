"""Fixtures shared by the tests: a model of milliseconds and a seeded batch."""

import pytest
import torch

from modeling_resformer import ResFormerConfig


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
