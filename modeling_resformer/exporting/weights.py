"""By what a file is known to hold the weights of a model."""

import hashlib

import torch


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over all weights and buffers by name, and over the calibration, which moves logits as they do."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    config = getattr(model, "config", None)
    if getattr(config, "is_calibrated", False):
        moved = (config.classification_scale, config.classification_shift, config.mask_temperature)
        digest.update(repr(moved).encode())
    return digest.hexdigest()
