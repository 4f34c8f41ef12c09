"""What every `prepare_*` command has: the same flags, and the same way from them to a prepared dataset."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..flags import Parser, add_limits, add_output, take_limits
from ..shipped import shipped


def preparation_parser(description: str) -> Parser:
    """Returns a parser with them."""
    parser = Parser(description)
    add = parser.add_argument
    add("--source", type=Path, required=True, help="raw folder or zip archive")
    add_output(parser, type=Path, required=True, help="folder to write")
    add("--splits", type=Path, help="split manifest to follow: CSV with case_id,split")
    add("--validation-fraction", type=float, default=0.0, help="share of training cases to move into validation")
    add("--test-fraction", type=float, default=0.0, help="share of training cases to move into test")
    add("--seed", type=int, default=0, help="seed of that draw")
    add(
        "--image-size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="store images at this size: side, or height width",
    )
    add(
        "--uncompressed",
        action="store_true",
        help="store resized images as BMP: three times the disk, a tenth of the time to decode in every epoch",
    )
    add("--allow-missing", action="store_true", help="keep images without mask or labels")
    add("--on-error", choices=("raise", "skip"), default="raise", help="what to do with a bad case")
    add(
        "--group-near-duplicates",
        action="store_true",
        help="put cases that hold near-duplicates of each other into the same split; only where the split is drawn",
    )
    add(
        "--no-leakage-check",
        dest="leakage_check",
        action="store_false",
        help="do not look for near-duplicates across splits (a few seconds for 2000 images of 256 x 256)",
    )
    add("--parquet", action="store_true", help="also write OUTPUT/parquet, ready for the Hub")
    add(
        "--push-to-hub", metavar="ORG/NAME", help="push the Parquet files and card as this dataset, private by default"
    )
    add("--public", action="store_true", help="make the pushed dataset public")
    add_limits(parser)
    add("--num-proc", type=int, default=1, help="processes")
    add("--overwrite", action="store_true", help="replace an earlier result once the new one is complete")
    parser.set_defaults(gated=False, agreement_allows_sharing=False)
    return parser


def add_annotation_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for data of which only a part is annotated."""
    parser.add_argument(
        "--unannotated-code", type=int, metavar="N", help="value of mask pixels that nobody annotated, e.g. 255"
    )
    parser.add_argument(
        "--annotated-slices",
        metavar="FILE",
        help="CSV with case_id,slice_index: only these slices count as annotated, all others are for prediction alone",
    )


def annotation_arguments(given: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_annotation_options` say, as keyword arguments for a builder."""
    return {"unannotated_code": given.unannotated_code, "annotated_slices": given.annotated_slices}


def run_preparation(make_builder: Callable[[dict[str, Any]], Any], given: argparse.Namespace, card: str) -> int:
    """Prepares as the flags say, writes the report to stdout, or one error line to stderr; returns the status.

    Args:
        make_builder: makes the `CaseBuilder` from the arguments that all builders share.
        given: the flags.
        card: name of the dataset card's template in `hub_cards/`.
    """
    from datasets.utils.logging import set_verbosity_error

    from ..data.dataset_report import format_report
    from ..data.preparing import Preparation, parse_image_size, prepare
    from ..errors import BadInputError

    set_verbosity_error()  # what `datasets` logs is about its caches; progress bars stay
    given.card = shipped(f"hub_cards/{card}")
    try:
        given.limits = take_limits(given)
        values = {name: getattr(given, name) for name in Preparation.__dataclass_fields__}
        values["image_size"] = parse_image_size(given.image_size)
        report = prepare(make_builder, Preparation(**values))
    except (BadInputError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(format_report(report, f"Prepared {given.output}"))
    return 0
