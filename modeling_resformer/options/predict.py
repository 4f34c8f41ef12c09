"""The flags of `scripts/predict.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..flags import MODEL, Parser, add_output


VIEWS = ("both", "horizontal")  # of pipeline_resformer.py


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = make_parser(description)
    given = parser.parse_intermixed_args(arguments)
    if given.model is None and given.inputs:
        given.model, *given.inputs = given.inputs
    check(parser, given)
    return given


def make_parser(description: str | None) -> Parser:
    parser = Parser(description, usage="%(prog)s --model FOLDER_OR_HUB_ID --output FOLDER [flags] [inputs ...]")
    add = parser.add_argument
    add("inputs", nargs="*", help="images, volumes, folders, glob patterns; without --model the first is the model")
    add("--model", metavar=MODEL, help="a ResFormer")
    parser.also("--model", "--model_name_or_path")
    add("--dataset", help="a prepared dataset in place of inputs")
    add("--split", default="test", help="split of --dataset (default: test)")
    add_output(parser, type=Path, required=True, help="folder to write, or to go on with")
    add("--overwrite", action="store_true", help="remove the predictions in --output and start anew")
    add("--revision", help="revision of a Hub id")
    add("--threshold", type=float, help="decision threshold on the class scores (default: the model's)")
    add(
        "--tta",
        choices=VIEWS,
        help="average over flips: horizontal, or both with upside down as well, which OCT must not be",
    )
    add("--no-overlays", action="store_true", help="masks and tables only")
    add("--batch-size", type=int, default=8, help="images a forward pass (default: 8)")
    add("--device", help='torch device, such as "cpu" (default: a GPU if there is one)')
    add("--cpu-threads", type=int, help="threads of each process; 1 also reads and writes on that one")
    return parser


def check(parser: Parser, given: argparse.Namespace) -> None:
    if given.model is None:
        parser.error(f"--model is missing; expected --model {MODEL}")
    if bool(given.inputs) == bool(given.dataset):
        parser.error("give either inputs (images, volumes, folders, patterns) or --dataset")
    for flag in ("batch_size", "cpu_threads"):
        value = getattr(given, flag)
        if value is not None and value < 1:
            parser.error(f"--{flag.replace('_', '-')} is {value}; expected 1 or more")
    if given.threshold is not None and not 0 <= given.threshold <= 1:
        parser.error(f"--threshold is {given.threshold}; expected a number from 0 to 1")
