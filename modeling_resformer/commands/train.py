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
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import OneLineParser, add_fields
from ..training.recipes import find_recipe, is_recipe
from ..training.training_options import DataOptions, ModelOptions, add_own


USAGE = "%(prog)s [RECIPE.json] --dataset FOLDER --output_dir FOLDER [flags]"
FROM_THE_TRAINER = """
Of the Trainer's flags, which --help-all lists, those that most runs set:
  --output_dir FOLDER (or --output)                 --num_train_epochs N
  --per_device_train_batch_size N                   --gradient_accumulation_steps N
  --learning_rate X --weight_decay X                --lr_scheduler_type cosine --warmup_steps N
  --metric_for_best_model loss                      --resume_from_checkpoint true
  --bf16 --gradient_checkpointing --use_cpu         --dataloader_num_workers N --seed N

Dashes and underscores in flags are interchangeable. The recipe may stand anywhere; flags win over it.
"""


def make_parser() -> OneLineParser:
    parser = OneLineParser(f"{__doc__}{FROM_THE_TRAINER}", add_help=False, usage=USAGE)
    add_own(parser)
    add_fields(parser, ModelOptions)
    add_fields(parser, DataOptions)
    return parser


def parse(arguments: Sequence[str]) -> None:
    """Answers `--help`, and looks for the recipe where it is plain which argument that is.

    What else is given can only be judged together with the Trainer's flags.

    Raises:
        ValueError: there is no such recipe.
    """
    if "-h" in arguments or "--help" in arguments:
        make_parser().print_help()
        sys.exit(0)
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before == "--recipe" or (not before and is_recipe(argument)):
            find_recipe(argument)
        elif argument.startswith("--recipe="):
            find_recipe(argument.partition("=")[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 after one line on stderr, or 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        parse(argv)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ..errors import BadInputError, CheckpointWriteError, NonFiniteLossError
    from ..publishing.after_training import take_push
    from ..training.arguments import parse_arguments
    from ..training.progress import quieten_libraries
    from ..training.training_run import train

    quieten_libraries()
    try:
        model, data, training = parse_arguments(argv)
        push = take_push(training)
        is_first = train(model, data, training)
        if push is not None and is_first:
            push(Path(training.output_dir))
    except (BadInputError, NonFiniteLossError, CheckpointWriteError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; go on from the last checkpoint by --resume_from_checkpoint true\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
