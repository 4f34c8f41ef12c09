"""A ResFormer of milliseconds."""

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


# What `--config` takes for such a model.
ARCHITECTURE = {
    name: getattr(tiny_config(), name)
    for name in ("hidden_sizes", "cnn_depths", "num_attention_heads", "window_size", "dilation_rates")
}
