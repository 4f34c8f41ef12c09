"""Model and image processor for a dataset: the one place where label names and class weights enter the config."""

from .. import ResFormerConfig, ResFormerForMultiTask, ResFormerImageProcessor
from ..data.class_weights import balanced_class_weights
from ..data.prepared import PreparedDataset
from .arguments import ModelArguments


def build_model(arguments: ModelArguments, prepared: PreparedDataset) -> ResFormerForMultiTask:
    """A multi-task model with the dataset's labels, from random weights or from a checkpoint.

    Heads of a checkpoint that were made for other labels start from random weights, and transformers names them.
    """
    settings = {
        "id2label": dict(enumerate(prepared.mask_classes)),
        "classification_labels": prepared.class_labels,
        **arguments.config,
    }
    if arguments.class_weights == "balanced":
        settings["class_weights"] = balanced_class_weights(prepared.dataset["train"])
    if arguments.model_name_or_path is None:
        return ResFormerForMultiTask(ResFormerConfig(**settings))
    return ResFormerForMultiTask.from_pretrained(
        arguments.model_name_or_path, ignore_mismatched_sizes=True, **settings
    )


def build_image_processor(arguments: ModelArguments, image_size: int | None) -> ResFormerImageProcessor:
    """The processor of the checkpoint, or a new one, squashing to a square of `image_size` if that is given."""
    settings = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
    if arguments.model_name_or_path is None:
        return ResFormerImageProcessor(**settings)
    return ResFormerImageProcessor.from_pretrained(arguments.model_name_or_path, **settings)
