"""Train ResFormer on a prepared dataset, select by lowest validation loss, and evaluate on the test part.

A full run; any field of transformers' TrainingArguments is a flag too:

    python scripts/train.py --dataset data/isic2017 --output_dir runs/isic2017 --image_size 224 \
        --class_weights balanced --per_device_train_batch_size 8 --learning_rate 3e-3 --weight_decay 1e-4 \
        --num_train_epochs 100 --seed 0

The same on every GPU of a machine, and on two CPU processes:

    accelerate launch scripts/train.py --dataset data/isic2017 --output_dir runs/isic2017 ...
    torchrun --nproc_per_node 2 scripts/train.py --use_cpu --ddp_backend gloo --dataset ...

A recipe is one JSON file of the same names; flags win. On a laptop, two minutes:

    python scripts/prepare_isic2017.py --source examples/isic2017_sample --output outputs/sample \
        --splits examples/isic2017_sample/split.csv
    python scripts/train.py scripts/recipes/tiny_cpu.json --dataset outputs/sample --output_dir outputs/tiny

Into the output folder go the model and its image processor (load both with `from_pretrained`), `results.json` (scores
with n and intervals, trivial baselines beside them), `per_case.csv`, and `trainer_state.json` with the learning curve.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import set_seed

from modeling_resformer.data.collation import MultiTaskCollator
from modeling_resformer.data.prepared import PreparedDataset, load_prepared
from modeling_resformer.metrics.scores import Bootstrap
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.training.building import build_image_processor, build_model
from modeling_resformer.training.compute_metrics import EvaluationMetrics
from modeling_resformer.training.resnet import fill_from_resnet
from modeling_resformer.training.results import format_table, summarise, write_per_case, write_results
from modeling_resformer.training.rows import EvaluationRows, TrainingRows
from modeling_resformer.training.trainer import ResFormerTrainer


logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    model_args, data_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    if model_args.cpu_threads is not None:
        torch.set_num_threads(model_args.cpu_threads)
    set_seed(training_args.seed)
    prepared = load_prepared(data_args.dataset)
    check_splits(prepared, data_args.dataset)
    model = build_model(model_args, prepared)
    if model_args.init_resnet is not None:
        filled = fill_from_resnet(model, model_args.init_resnet)
        if training_args.should_log:
            logger.info("%s", filled)
    image_processor = build_image_processor(model_args.model_name_or_path, data_args.image_size)
    ignore_index = model.config.semantic_loss_ignore_index
    training_rows = TrainingRows(prepared.dataset["train"], data_args.augmentation, training_args.seed, ignore_index)
    metrics = EvaluationMetrics(model.config, data_args.auc_classes)
    trainer = ResFormerTrainer(
        model=model,
        args=training_args,
        train_dataset=training_rows,
        eval_dataset=EvaluationRows(prepared.dataset["validation"]),
        data_collator=MultiTaskCollator(image_processor, len(prepared.class_labels), case_ids(prepared), ignore_index),
        processing_class=image_processor,
        compute_metrics=metrics,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.evaluate(EvaluationRows(prepared.dataset["test"]), metric_key_prefix="test")
    if trainer.is_world_process_zero():
        report(metrics, prepared, Path(training_args.output_dir), Bootstrap(data_args.bootstrap_samples))
    trainer.accelerator.end_training()


def check_splits(prepared: PreparedDataset, folder: str) -> None:
    if missing := {"train", "validation", "test"} - set(prepared.dataset):
        raise ValueError(
            f"{folder} has no {' and no '.join(sorted(missing))} part. Selection needs a validation part and results a "
            "test part: prepare it again with --validation-fraction and --test-fraction, or with --splits."
        )


def case_ids(prepared: PreparedDataset) -> list[str]:
    """Every case of the dataset once, in a fixed order."""
    return sorted({case_id for rows in prepared.dataset.values() for case_id in rows["case_id"]})


def report(metrics: EvaluationMetrics, prepared: PreparedDataset, folder: Path, bootstrap: Bootstrap) -> None:
    """Write and show what the evaluation of the test part has found."""
    results = summarise(metrics, prepared.dataset, "test", bootstrap)
    write_results(results, folder / "results.json")
    write_per_case(metrics, prepared.dataset["test"], folder / "per_case.csv")
    logger.info("%d test images\n%s\nwritten to %s", results["images"], format_table(results), folder)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
