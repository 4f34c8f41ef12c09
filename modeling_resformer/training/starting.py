"""A start from any ResFormer checkpoint: which weights are its own, and which are random because its labels differ."""

import logging
from collections.abc import Iterator

from ..configuration_resformer import ResFormerConfig
from ..modeling_resformer import ResFormerPreTrainedModel


logger = logging.getLogger(__name__)


def start_from_checkpoint(
    model_class: type[ResFormerPreTrainedModel], name_or_path: str, config: ResFormerConfig, before: ResFormerConfig
) -> ResFormerPreTrainedModel:
    """The checkpoint's weights in a model of another config; one line of the log names what starts from random ones.

    A head starts anew if the checkpoint has none, and its last layer if the classes have other names: weights made for
    one class mean nothing for another, even where there are as many.

    Args:
        model_class: of the model to return.
        name_or_path: folder or Hub id of the checkpoint.
        config: of the model to return.
        before: the checkpoint's own config.
    """
    model, found = model_class.from_pretrained(
        name_or_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    fresh = set(found["missing_keys"]) | {name for name, *_ in found["mismatched_keys"]}
    fresh |= set(_reinitialise_heads(model, before))
    logger.info("%s", _describe(model, name_or_path, fresh, before))
    return model


def _reinitialise_heads(model: ResFormerPreTrainedModel, before: ResFormerConfig) -> Iterator[str]:
    """Random weights for the last layer of each head whose classes have other names now, though as many; their names."""
    for head, old, new in _heads(model, before):
        if old != new:
            layer = model.get_submodule(head).classifier
            for name, parameter in layer.named_parameters():
                parameter._is_hf_initialized = False
                yield f"{head}.classifier.{name}"
            model._init_weights(layer)


def _heads(model: ResFormerPreTrainedModel, before: ResFormerConfig) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name of each head of a model, the classes it had and the classes it has."""
    if hasattr(model, "segmentation_head"):
        yield "segmentation_head", before.mask_class_names, model.config.mask_class_names
    if hasattr(model, "classification_head"):
        yield "classification_head", before.image_class_names, model.config.image_class_names


def _describe(model: ResFormerPreTrainedModel, name: str, fresh: set[str], before: ResFormerConfig) -> str:
    if not fresh:
        return f"Start from {name}: every weight is the checkpoint's."
    renamed = [f"{head}: {old} there, {new} here" for head, old, new in _heads(model, before) if old != new]
    parts = []
    for part in model._modules:
        tensors = [tensor for tensor in model.state_dict() if tensor.startswith(f"{part}.")]
        if count := len(fresh & set(tensors)):
            parts.append(part if count == len(tensors) else f"{part} ({count} of {len(tensors)} tensors)")
    classes = f" Classes of {'; '.join(renamed)}." if renamed else ""
    return f"Start from {name}: random weights for {', '.join(parts)}, the checkpoint's for the rest.{classes}"
