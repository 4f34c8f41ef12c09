"""The flags of `scripts/push_to_hub.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_model, add_output, take_model


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = make_parser(description)
    given = take_model(parser, parser.parse_args(arguments))
    if given.dry_run and given.output is None:
        parser.error("--dry-run needs --output FOLDER to write to")
    if given.with_space and given.space_id is None:
        parser.error("--with-space needs --space-id owner/name")
    return given


def make_parser(description: str | None) -> Parser:
    parser = Parser(description)
    add_model(parser, type=Path, help="output folder of scripts/train.py, or one that this script made")
    add = parser.add_argument
    add("--repo-id", required=True, help="owner/name on the Hub")
    add("--dry-run", action="store_true", help="write the folder and send nothing; needs --output")
    add_output(parser, type=Path, help="folder to write; a scratch folder where it is not given")
    add("--overwrite", action="store_true", help="replace an earlier output of this script")
    add("--public", action="store_true", help="let everybody see the repository; private otherwise")
    add("--revision", default="main", help="branch that gets the commit")
    add("--tag", help="name for the commit, such as v1")
    add("--license", help="Hub id of the weights' licence; default apache-2.0 where the data are free")
    add(
        "--card",
        type=Path,
        help="the owner's card.yaml; default that of the run, or else of the repository on the Hub",
    )
    add("--dataset-id", help="Hub id of the dataset, where it is on the Hub")
    add("--space-id", help="Hub id of a Space that tries the model, for a link in the card")
    add("--with-space", action="store_true", help="make that Space too, from hub_cards/space")
    add("--data-allow-sharing", action="store_true", help="I state that the data's terms allow public weights")
    add(
        "--share-images",
        action="store_true",
        help="I state that images of my own dataset may be shown in the card",
    )
    parser.also("--share-images", "--share-pictures")
    add("--synthetic", action="store_true", help="the data are made up: mark everything as no result")
    return parser
