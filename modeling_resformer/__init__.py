# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""ResFormer for Hugging Face: one model that segments and diagnoses a medical image (arXiv 2412.00351).

Importing the package registers the model with transformers' Auto classes and its pipeline, and needs torch and
transformers only; data, metrics and training live in sub-packages that are imported where they are used.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageSegmentation,
    AutoModelForSemanticSegmentation,
)

# By its own module, since without torchvision transformers 5.17 hides it at the top.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import is_torchvision_available, logging

from .configuration_resformer import ResFormerConfig, __version__
from .image_processing_pil_resformer import ResFormerImageProcessorPil
from .modeling_resformer import (
    PIPELINE_TASK,
    ResFormerBackbone,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerMultiTaskOutput,
    ResFormerPreTrainedModel,
)
from .pipeline_resformer import ResFormerPipeline


if is_torchvision_available():
    from .image_processing_resformer import ResFormerImageProcessor
else:
    logging.get_logger(__name__).warning_once(
        "torchvision is not installed: ResFormerImageProcessor is ResFormerImageProcessorPil."
    )
    ResFormerImageProcessor = ResFormerImageProcessorPil


def _register() -> None:
    AutoConfig.register(ResFormerConfig.model_type, ResFormerConfig, exist_ok=True)
    for auto_class, model_class in (
        (AutoModel, ResFormerForMultiTask),
        (AutoModelForSemanticSegmentation, ResFormerForSemanticSegmentation),
        (AutoModelForImageSegmentation, ResFormerForSemanticSegmentation),
        (AutoModelForImageClassification, ResFormerForImageClassification),
        (AutoBackbone, ResFormerBackbone),
    ):
        auto_class.register(ResFormerConfig, model_class, exist_ok=True)
    processors = {"pil": ResFormerImageProcessorPil}
    if is_torchvision_available():
        processors["torchvision"] = ResFormerImageProcessor
    AutoImageProcessor.register(ResFormerConfig, image_processor_classes=processors, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(PIPELINE_TASK, ResFormerPipeline, pt_model=AutoModel, type="image")


_register()

__all__ = [
    "ResFormerBackbone",
    "ResFormerConfig",
    "ResFormerForImageClassification",
    "ResFormerForMultiTask",
    "ResFormerForSemanticSegmentation",
    "ResFormerImageProcessor",
    "ResFormerImageProcessorPil",
    "ResFormerMultiTaskOutput",
    "ResFormerPipeline",
    "ResFormerPreTrainedModel",
    "__version__",
]
