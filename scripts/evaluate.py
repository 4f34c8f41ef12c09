r"""Evaluate any ResFormer checkpoint on any split of any prepared dataset with the same labels.

    python scripts/evaluate.py --model runs/isic2017 --dataset data/isic2017 --split test \
        --output runs/isic2017/test

The same on every GPU of a machine: `accelerate launch scripts/evaluate.py ...`. The model is a folder or a Hub id; into
the output folder go `results.json`, `per_case.csv`, `report.png` and `samples.png`, as `scripts/train.py` leaves them.

Scores are computed at the size of the dataset's masks. Where these were resized, the source's own masks give scores at
native size, and so comparable with published ones:

    python scripts/evaluate.py --model runs/isic2017 --dataset data/isic2017 --output runs/isic2017/native \
        --raw_masks ISIC2017/ISIC-2017_Test_v2_Part1_GroundTruth

With --choose_thresholds the decision thresholds of the image-level classes are first chosen on the validation split, each
class by balanced accuracy, and written to the checkpoint's config (`classification_thresholds`), where inference finds
them too. Balanced accuracy, because it does not depend on how common a class is; no other split is looked at.

The exit status is 1 after bad arguments or bad data.
"""

import logging
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

import torch

from modeling_resformer.data.prepared import PreparedDataset, load_prepared
from modeling_resformer.data.rows import EvaluationRows
from modeling_resformer.errors import BadInputError, NonFiniteLossError, named_write_failure
from modeling_resformer.evaluation.evaluation import Scoring
from modeling_resformer.evaluation.per_case import write_per_case
from modeling_resformer.evaluation.raw_masks import RawMaskRows, mask_values_of
from modeling_resformer.evaluation.report_page import write_pages
from modeling_resformer.evaluation.results import write_results
from modeling_resformer.files import check_writable
from modeling_resformer.metrics.scores import Bootstrap
from modeling_resformer.training.arguments import EvaluationArguments, parse_evaluation_arguments
from modeling_resformer.training.building import (
    build_collator,
    build_image_processor,
    build_metrics,
    check_labels,
    load_model,
)
from modeling_resformer.training.progress import quieten_libraries
from modeling_resformer.training.split_evaluation import evaluate_split
from modeling_resformer.training.threshold_choice import (
    choose_on_validation,
    warn_of_older_results,
    write_thresholds,
)
from modeling_resformer.training.trainer import ResFormerTrainer
from modeling_resformer.training.training_log import recall_training


logger = logging.getLogger(__name__)


def evaluate(arguments: EvaluationArguments) -> None:
    if arguments.cpu_threads is not None:
        torch.set_num_threads(arguments.cpu_threads)
    output = Path(arguments.output)
    check_writable(output, "--output")
    prepared = load_prepared(arguments.dataset)
    model = load_model(arguments.model_name_or_path, arguments.task)
    image_processor = build_image_processor(arguments.model_name_or_path, arguments.image_size)
    trainer = ResFormerTrainer(
        model=model,
        args=arguments.as_training_arguments(),
        data_collator=build_collator(prepared, image_processor, model.config),
        processing_class=image_processor,
        compute_metrics=build_metrics(model, arguments.auc_classes),
    )
    check(arguments, trainer, prepared)
    log = recall_training(Path(arguments.model_name_or_path))
    rows = rows_to_score(arguments, prepared)
    if arguments.choose_thresholds:
        thresholds = choose_on_validation(trainer, prepared.dataset)
        if trainer.is_world_process_zero():
            checkpoint = Path(arguments.model_name_or_path)
            with named_write_failure(checkpoint, "--model"):
                write_thresholds(thresholds, checkpoint)
            warn_of_older_results(trainer, checkpoint, output)
    scoring = Scoring(Bootstrap(arguments.bootstrap_samples), arguments.group_by, arguments.per_case_format)
    with named_write_failure(output, "--output"):
        evaluation = evaluate_split(trainer, prepared.dataset, arguments.split, scoring, rows)
        if evaluation is not None:
            write_per_case(evaluation, output)
            write_results(evaluation, output)
            write_pages(evaluation, output, log)
    trainer.accelerator.end_training()


def rows_to_score(arguments: EvaluationArguments, prepared: PreparedDataset) -> EvaluationRows:
    rows = prepared.dataset[arguments.split]
    if arguments.raw_masks is None:
        return EvaluationRows(rows)
    return RawMaskRows(
        rows, Path(arguments.raw_masks), mask_values_of(arguments.raw_mask_values, prepared.mask_classes)
    )


def check(arguments: EvaluationArguments, trainer: ResFormerTrainer, prepared: PreparedDataset) -> None:
    needed = [arguments.split, *(["validation"] if arguments.choose_thresholds else [])]
    if missing := sorted(set(needed) - set(prepared.dataset)):
        raise BadInputError(f"{arguments.dataset} has no {missing} split; it has {sorted(prepared.dataset)}.")
    if arguments.choose_thresholds and trainer.task.class_logits is None:
        raise BadInputError("--choose_thresholds needs a model with image-level classes; this one only segments.")
    if arguments.raw_masks and trainer.task.mask_logits is None:
        raise BadInputError("--raw_masks needs a model with masks; this one only classifies.")
    Scoring(Bootstrap(0), arguments.group_by).column(prepared.dataset[arguments.split])
    check_labels(trainer.model.config, trainer.task, prepared, arguments.dataset)
    if arguments.choose_thresholds and arguments.split == "validation":
        logger.warning("Thresholds and scores come from the same rows: accuracy and the like will look too good.")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    quieten_libraries()
    try:
        evaluate(parse_evaluation_arguments(sys.argv[1:] if argv is None else argv))
    except (BadInputError, NonFiniteLossError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
