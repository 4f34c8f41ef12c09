"""A Trainer of a small model on a small prepared dataset."""

import torch
from prepared_data import CLASS_LABELS
from small_model import tiny_config
from transformers import TrainingArguments

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessorPil
from modeling_resformer.data.collation import MultiTaskCollator
from modeling_resformer.data.rows import EvaluationRows, TrainingRows
from modeling_resformer.data.transforms import Augmentation
from modeling_resformer.evaluation.evaluation_metrics import EvaluationMetrics
from modeling_resformer.training.trainer import ResFormerTrainer


NO_AUGMENTATION = Augmentation(0, 0, 0)


def make_trainer(
    dataset,
    folder,
    augmentation=NO_AUGMENTATION,
    model_settings=None,
    model_class=ResFormerForMultiTask,
    trainer_settings=None,
    **arguments,
):
    torch.manual_seed(0)
    config = tiny_config(
        id2label={0: "background", 1: "lesion"},
        classification_labels=CLASS_LABELS,
        class_weights=[0.5, 2.0],
        **(model_settings or {}),
    )
    processor = ResFormerImageProcessorPil(size={"height": 32, "width": 32})
    case_ids = sorted({case for rows in dataset.values() for case in rows["case_id"]})
    return ResFormerTrainer(
        model=model_class(config),
        args=TrainingArguments(
            output_dir=str(folder),
            **{
                "remove_unused_columns": False,
                "batch_eval_metrics": True,
                "use_cpu": True,
                "report_to": "none",
                "save_strategy": "no",
                "disable_tqdm": True,
                "per_device_train_batch_size": 4,
                **arguments,
            },
        ),
        train_dataset=TrainingRows(dataset["train"], augmentation, seed=0),
        eval_dataset=EvaluationRows(dataset["validation"]),
        data_collator=MultiTaskCollator(processor, len(CLASS_LABELS), case_ids),
        processing_class=processor,
        compute_metrics=EvaluationMetrics(config),
        **(trainer_settings or {}),
    )


def scores_of(metrics):
    """Without the seconds, which differ from run to run."""
    return {name: value for name, value in metrics.items() if not name.endswith(("runtime", "_per_second", "_time"))}
