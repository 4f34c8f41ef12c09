r"""A trained model to the Hub: first a complete folder to look at, then one commit.

Look before anything is sent; the folder is tried in a fresh process as a stranger would use it:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 --dry-run --output outputs/repository

Then the same without --dry-run. The repository is private until --public, and gets its files in one commit:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 --tag v1

With a Space that tries the model in the browser, linked from the card:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 \
        --space-id my-group/try-resformer --with-space

With a static Space in which the model runs in its reader's own browser (extra `export`, and npm; scripts/make_page.py makes
the same folder):

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 \
        --web-id my-group/resformer-page --with-web

What only you know of the data (what they show, their licence, whom to cite and to ask) goes into a card.yaml in the run's
folder, or named by --card; hub_cards/card.yaml is a commented example. It goes along, and later pushes keep it.

A push that broke off, or whose tag, visibility or Space failed, is finished by the same command.

The model is the --output_dir of scripts/train.py, a folder that this script made, or hub_cards/resformer-lite-isic2017,
which holds what of one no code can make again. Refused are runs without results.json, weights with NaN, pickle files,
cards with an invalid header, folders that do not reload elsewhere, and --public for weights learned from data that are
not free. Log in with `hf auth login` first. The exit status is 1 after one line on stderr that says what speaks against it.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_model, add_output, take_model


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = make_parser()
    given = take_model(parser, parser.parse_args(arguments))
    if given.dry_run and given.output is None:
        parser.error("--dry-run needs --output FOLDER to write to")
    if given.with_space and given.space_id is None:
        parser.error("--with-space needs --space-id owner/name")
    if given.with_web and given.web_id is None:
        parser.error("--with-web needs --web-id owner/name")
    if given.runtime is not None and not given.with_web:
        parser.error("--runtime is for the page of --with-web; expected both or neither")
    return given


def make_parser() -> Parser:
    parser = Parser(__doc__)
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
    add(
        "--folds",
        type=Path,
        metavar="FOLDER",
        help="output folder of scripts/train_folds.py on the same data, for a table of the card",
    )
    add(
        "--benchmark",
        action="append",
        default=[],
        metavar="OWNER/DATASET:TASK=SCORE",
        help="a score of results.json for a benchmark dataset of the Hub, e.g. org/isic2017:lesion=jaccard; several times",
    )
    add("--dataset-id", help="Hub id of the dataset, where it is on the Hub")
    add("--space-id", help="Hub id of a Space that tries the model, for a link in the card")
    add("--with-space", action="store_true", help="make that Space too, from hub_cards/space")
    add("--web-id", help="Hub id of a static Space that runs the model in the browser, for a link in the card")
    add("--with-web", action="store_true", help="make that page too, from hub_cards/web")
    add("--runtime", type=Path, metavar="FILE", help="npm's package of the page's runtime, where npm cannot fetch it")
    add("--data-allow-sharing", action="store_true", help="I state that the data's terms allow public weights")
    add(
        "--share-images",
        action="store_true",
        help="I state that images of my own dataset may be shown in the card",
    )
    parser.also("--share-images", "--share-pictures")
    add("--synthetic", action="store_true", help="the data are made up: mark everything as no result")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    given = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpx2"):  # the Hub client names every request
        logging.getLogger(name).setLevel(logging.WARNING)
    from ..errors import BadInputError
    from ..publishing.card import Terms
    from ..publishing.hub import Push
    from ..publishing.publishing_run import publish
    from ..training.progress import quieten_libraries

    quieten_libraries()
    terms = Terms(
        repo_id=given.repo_id,
        licence=given.license,
        dataset_id=given.dataset_id,
        space_id=given.space_id,
        web_id=given.web_id,
        public=given.public,
        data_allow_sharing=given.data_allow_sharing,
        share_images=given.share_images,
        synthetic=given.synthetic,
        card_text=given.card,
        folds=given.folds,
        benchmarks=tuple(given.benchmark),
        revision=given.tag or given.revision,
    )
    push = Push(given.repo_id, public=given.public, revision=given.revision, tag=given.tag)
    try:
        publish(
            given.model,
            terms,
            push,
            given.output,
            given.overwrite,
            given.dry_run,
            given.with_space,
            given.with_web,
            given.runtime,
        )
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
