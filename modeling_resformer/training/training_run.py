"""One training, from its arguments to the finished folder."""

import logging
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from ..data.prepared import PreparedDataset, load_prepared
from ..data.rows import EvaluationRows, TrainingRows, annotated_rows
from ..errors import named_worker_failure
from ..evaluation.evaluation import Scoring
from ..evaluation.per_case import write_per_case
from ..evaluation.report_page import write_pages
from ..evaluation.results import write_results
from ..files import alone, check_writable
from ..heads import TASKS
from ..metrics.scores import Bootstrap
from ..rivals.rival_models import RivalConfig
from .arguments import DataArguments, ModelArguments
from .building import (
    build_collator,
    build_image_processor,
    build_metrics,
    build_model,
    build_teacher,
    synchronise_batch_norms,
)
from .checkpoints import choose_checkpoint, named_checkpoint_failure, no_empty_folder_left
from .imagenet import backbone_start
from .preflight import check_resources
from .resnet import fill_from_resnet
from .rival_start import RivalPixels
from .run_checks import check_annotations, check_devices, check_exclusive_labels, check_image_size, check_splits
from .run_record import RunClock, code_version, write_run_record
from .split_evaluation import evaluate_split
from .trainer import ResFormerTrainer
from .training_log import training_log


logger = logging.getLogger(__name__)


def train(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> bool:
    """Trains, evaluates on the test split, and leaves model, results and record in the output folder.

    Returns:
        Whether this process is the first of those that train together, which wrote the files.

    Raises:
        BadInputError: the data, the model or the output folder are of no use.
        NonFiniteLossError: a loss is no longer a number.
        CheckpointWriteError: a checkpoint cannot be written.
    """
    output = Path(training_args.output_dir)
    check_writable(output, "--output_dir")
    with alone(output, "--output_dir") if training_args.process_index == 0 else nullcontext():
        return train_alone(model_args, data_args, training_args)


def train_alone(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> bool:
    """As `train`, while no other run writes there."""
    clock, code = RunClock(), code_version()
    if model_args.cpu_threads is not None:
        torch.set_num_threads(model_args.cpu_threads)
    output = Path(training_args.output_dir)
    checkpoint = choose_checkpoint(training_args.resume_from_checkpoint, output)
    if training_args.resume_from_checkpoint and training_args.should_log:
        logger.info("%s: %s", output, f"going on from {checkpoint.name}" if checkpoint else "starting afresh")
    if not training_args.should_log:
        logging.getLogger("modeling_resformer").setLevel(logging.ERROR)
    check_devices(training_args)
    set_seed(training_args.seed)
    prepared = data_args.choice.applied_to(load_prepared(data_args.dataset, data_args.splits), training_args.seed)
    check_splits(prepared, data_args.dataset)
    if training_args.should_log:
        logger.info("%s", data_args.explain_augmentation(prepared.modality))
    data_args = data_args.with_augmentation(prepared.modality)
    scoring = Scoring(Bootstrap(data_args.bootstrap_samples), data_args.group_by, data_args.per_case_format)
    scoring.column(prepared.dataset["test"])
    check_annotations(prepared, TASKS[model_args.task], data_args.dataset)
    with no_empty_folder_left(output):
        trainer = make_trainer(model_args, data_args, training_args, prepared, clock)
        check_resources(trainer, model_args.yes)
    with (
        logging_redirect_tqdm() if not training_args.disable_tqdm else nullcontext(),
        named_worker_failure(str(output), "go on by --resume_from_checkpoint true and fewer --dataloader_num_workers"),
    ):
        trainer.train(checkpoint)
    trainer.save_model()
    trainer.save_state()
    with named_checkpoint_failure("results", output):
        evaluation = evaluate_split(trainer, prepared.dataset, "test", scoring)
        if evaluation is not None:
            write_per_case(evaluation, output)
            write_results(evaluation, output)
            write_run_record(trainer, prepared, model_args, data_args, code)
            write_pages(evaluation, output, training_log(trainer.state))
    trainer.accelerator.end_training()
    return trainer.is_world_process_zero()


def make_trainer(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    prepared: PreparedDataset,
    clock: RunClock,
) -> ResFormerTrainer:
    """With the model, its processor and the rows that it learns from and is selected by."""
    start = None if model_args.backbone is None else backbone_start(model_args.backbone)
    model = build_model(model_args, prepared, start, data_args.image_size)
    check_exclusive_labels(prepared, model.config, TASKS[model_args.task], data_args.dataset)
    if model_args.init_resnet is not None:
        filled = fill_from_resnet(model, model_args.init_resnet)
        if training_args.should_log:
            logger.info("%s", filled)
    pixels = RivalPixels.of(model.config) if isinstance(model.config, RivalConfig) else start
    image_processor = build_image_processor(model_args.model_name_or_path, data_args, pixels)
    check_image_size(image_processor, model.config)
    if model_args.sync_batch_norm:
        synchronise_batch_norms(model, training_args)
    # A fifth to a quarter faster on CPUs (measured), and what tensor cores want.
    model.to(memory_format=torch.channels_last)
    teacher = build_teacher(model_args, model)
    ignore_index = model.config.semantic_loss_ignore_index
    patience = model_args.early_stopping_patience
    return ResFormerTrainer(
        model=model,
        args=training_args,
        train_dataset=training_rows(model_args, data_args, training_args, prepared, ignore_index),
        eval_dataset=EvaluationRows(prepared.dataset["validation"]),
        data_collator=build_collator(prepared, image_processor, model.config, teacher),
        processing_class=image_processor,
        compute_metrics=build_metrics(model, data_args.auc_classes),
        callbacks=[clock] + ([EarlyStoppingCallback(patience)] if patience else []),
        ema_decay=model_args.ema_decay,
        teacher=teacher,
        mixup=model_args.mixup,
        backbone_lr_scale=model_args.backbone_rate,
        freeze_backbone_epochs=model_args.freeze_backbone_epochs,
    )


def training_rows(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    prepared: PreparedDataset,
    ignore_index: int,
) -> TrainingRows:
    """Those that are annotated for the task, augmented; one line of the log says how many are left out."""
    everything = prepared.dataset["train"]
    rows = annotated_rows(everything, TASKS[model_args.task])
    if training_args.should_log and len(rows) < len(everything):
        logger.info(
            "%d of %d training rows are not annotated for this task and are left out.",
            *(len(everything) - len(rows), len(everything)),
        )
    return TrainingRows(rows, data_args.augmentation(prepared.modality), training_args.seed, ignore_index)
