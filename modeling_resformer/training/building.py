"""Model, image processor, collator and metrics for a dataset: the one place where its names enter the config."""

from .. import ResFormerConfig, ResFormerImageProcessor
from ..data.class_weights import balanced_class_weights
from ..data.prepared import PreparedDataset
from ..modeling_resformer import ResFormerPreTrainedModel
from .arguments import ModelArguments
from .tasks import TASKS


def build_model(arguments: ModelArguments, prepared: PreparedDataset) -> ResFormerPreTrainedModel:
    """The model of a task with the dataset's labels, from random weights or from a checkpoint.

    Heads of a checkpoint that were made for other labels start from random weights, and transformers names them.
    """
    task = TASKS[arguments.task]
    settings = {
        "id2label": dict(enumerate(prepared.mask_classes)),
        "classification_labels": prepared.class_labels,
        **arguments.config,
    }
    if arguments.class_weights == "balanced" and task.class_logits is not None:
        settings["class_weights"] = balanced_class_weights(prepared.dataset["train"])
    if arguments.model_name_or_path is None:
        return task.model_class(ResFormerConfig(**settings))
    # Thresholds were chosen for weights that training will change.
    settings.setdefault("classification_thresholds", None)
    # The shared view, since an `id2label` handed to `from_pretrained` means the head of the class being loaded.
    config = ResFormerConfig.from_pretrained(arguments.model_name_or_path, **settings).as_shared()
    return task.model_class.from_pretrained(arguments.model_name_or_path, config=config, ignore_mismatched_sizes=True)


def build_image_processor(name_or_path: str | None, image_size: int | None) -> ResFormerImageProcessor:
    """The processor of a checkpoint, or a new one, squashing to a square of `image_size` if that is given."""
    settings = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
    if name_or_path is None:
        return ResFormerImageProcessor(**settings)
    return ResFormerImageProcessor.from_pretrained(name_or_path, **settings)
