r"""Train ResFormer on a prepared dataset, select by lowest validation loss, and evaluate on the test split.

A full run; any field of transformers' TrainingArguments is a flag too:

    python scripts/train.py --dataset data/isic2017 --output_dir runs/isic2017 --image_size 224 \
        --class_weights balanced --per_device_train_batch_size 8 --learning_rate 3e-4 --weight_decay 0.05 \
        --num_train_epochs 100 --seed 0

The same on every GPU of a machine, with the model shared out over them, and on two CPU processes:

    accelerate launch scripts/train.py --dataset data/isic2017 --output_dir runs/isic2017 ...
    accelerate launch --config_file scripts/launch/fsdp.yaml scripts/train.py --dataset ...
    torchrun --nproc_per_node 2 scripts/train.py --use_cpu --ddp_backend gloo --dataset ...

Each process pools Dice and batch norm over its own batch; --sync_batch_norm pools batch norm over all GPUs. FSDP and
SyncBN have not been run on GPUs yet, nor has `gpu_isic2017.json --bf16 --tf32 true`, meant to train the full network
in minutes on one large GPU.

A recipe is one JSON file of the same names; flags win. One of scripts/recipes may be given by its bare name.
`*_paper.json` is what the paper states (arXiv 2412.00351) and, where it states nothing, no schedule, no clipping, any
angle and balanced class weights; `*_recommended.json` warms up, anneals and clips. On a GPU with bfloat16, from
ImageNet weights, and one task alone:

    python scripts/train.py scripts/recipes/isic2017_recommended.json --dataset data/isic2017 --output_dir runs/a \
        --bf16 --init_resnet microsoft/resnet-34 --task segmentation

On a laptop, two minutes:

    python scripts/prepare_isic2017.py --source examples/isic2017_sample --output outputs/sample \
        --splits examples/isic2017_sample/split.csv
    python scripts/train.py scripts/recipes/tiny_cpu.json --dataset outputs/sample --output_dir outputs/tiny

Into the output folder go the model and its image processor (load both with `from_pretrained`), `results.json` (scores
with n and intervals, trivial baselines beside them), `per_case.csv`, `run.json` (settings as a recipe, commit, versions,
hardware, time, data), and `trainer_state.json` with the learning curve.
The exit status is 1 after bad arguments, bad data, a loss that is no longer a number, or a full disk.

A run that was killed goes on by the same command with

    --resume_from_checkpoint true

from the newest whole checkpoint of the output folder, if there is one, and ends with the same weights as one that was
never killed: bit for bit in one process on the CPU with as many threads, to rounding in several. Checkpoints appear
whole or not at all, at the end of each epoch or by --save_strategy steps --save_steps N; a broken one is passed over.
Selection is by the lowest validation loss or by --metric_for_best_model, e.g. jaccard or auc;
--early_stopping_patience N stops after N evaluations without a better one, and --ema_decay 0.999 averages the weights.
"""

import logging
import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

import torch
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from modeling_resformer.data.prepared import PreparedDataset, load_prepared
from modeling_resformer.data.rows import EvaluationRows, TrainingRows, annotated_rows
from modeling_resformer.errors import BadInputError, CheckpointWriteError, NonFiniteLossError
from modeling_resformer.evaluation.evaluation import Scoring
from modeling_resformer.evaluation.per_case import write_per_case
from modeling_resformer.evaluation.report_page import write_pages
from modeling_resformer.evaluation.results import write_results
from modeling_resformer.files import check_writable
from modeling_resformer.heads import TASKS
from modeling_resformer.metrics.scores import Bootstrap
from modeling_resformer.publishing.after_training import take_push
from modeling_resformer.training.arguments import DataArguments, ModelArguments, parse_arguments
from modeling_resformer.training.building import (
    build_collator,
    build_image_processor,
    build_metrics,
    build_model,
    synchronise_batch_norms,
)
from modeling_resformer.training.checkpoints import choose_checkpoint, named_checkpoint_failure, no_empty_folder_left
from modeling_resformer.training.preflight import check_resources
from modeling_resformer.training.progress import quieten_libraries
from modeling_resformer.training.resnet import fill_from_resnet
from modeling_resformer.training.run_checks import check_annotations, check_devices, check_image_size, check_splits
from modeling_resformer.training.run_record import RunClock, code_version, write_run_record
from modeling_resformer.training.split_evaluation import evaluate_split
from modeling_resformer.training.trainer import ResFormerTrainer
from modeling_resformer.training.training_log import training_log


logger = logging.getLogger(__name__)


def train(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> None:
    clock, code = RunClock(), code_version()
    push = take_push(training_args)
    if model_args.cpu_threads is not None:
        torch.set_num_threads(model_args.cpu_threads)
    output = Path(training_args.output_dir)
    check_writable(output, "--output_dir")
    checkpoint = choose_checkpoint(training_args.resume_from_checkpoint, output)
    if training_args.resume_from_checkpoint and training_args.should_log:
        logger.info("%s: %s", output, f"going on from {checkpoint.name}" if checkpoint else "starting afresh")
    if not training_args.should_log:
        logging.getLogger("modeling_resformer").setLevel(logging.ERROR)
    check_devices(training_args)
    set_seed(training_args.seed)
    prepared = load_prepared(data_args.dataset)
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
    with logging_redirect_tqdm() if not training_args.disable_tqdm else nullcontext():
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
    if push is not None and trainer.is_world_process_zero():
        push(output)


def make_trainer(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    prepared: PreparedDataset,
    clock: RunClock,
) -> ResFormerTrainer:
    """With the model, its processor and the rows that it learns from and is selected by."""
    model = build_model(model_args, prepared)
    if model_args.init_resnet is not None:
        filled = fill_from_resnet(model, model_args.init_resnet)
        if training_args.should_log:
            logger.info("%s", filled)
    image_processor = build_image_processor(model_args.model_name_or_path, data_args.image_size)
    check_image_size(image_processor, model.config)
    if model_args.sync_batch_norm:
        synchronise_batch_norms(model, training_args)
    ignore_index = model.config.semantic_loss_ignore_index
    patience = model_args.early_stopping_patience
    return ResFormerTrainer(
        model=model,
        args=training_args,
        train_dataset=training_rows(model_args, data_args, training_args, prepared, ignore_index),
        eval_dataset=EvaluationRows(prepared.dataset["validation"]),
        data_collator=build_collator(prepared, image_processor, model.config),
        processing_class=image_processor,
        compute_metrics=build_metrics(model, data_args.auc_classes),
        callbacks=[clock] + ([EarlyStoppingCallback(patience)] if patience else []),
        ema_decay=model_args.ema_decay,
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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 after one line on stderr, or 130 after Ctrl-C."""
    quieten_libraries()
    try:
        train(*parse_arguments(sys.argv[1:] if argv is None else argv))
    except (BadInputError, NonFiniteLossError, CheckpointWriteError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; go on from the last checkpoint by --resume_from_checkpoint true\n")
        return 130
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
