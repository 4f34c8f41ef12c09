"""By what a file is known to hold the weights of a model."""

import hashlib

import torch


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over all weights and buffers by name, and over what a config holds of the same kind: calibration and weights of confidence."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    config = getattr(model, "config", None)
    fitted = [
        getattr(config, name, None) for name in ("classification_scale", "classification_shift", "confidence_weights")
    ]
    if getattr(config, "is_calibrated", False) or fitted[-1] is not None:
        digest.update(repr([*fitted, config.mask_temperature]).encode())
    return digest.hexdigest()
