r"""A trained model to the Hub: first a complete folder to look at, then one commit.

Look before anything is sent; the folder is tried in a fresh process as a stranger would use it:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 --dry-run --output outputs/repository

Then the same without --dry-run. The repository is private until --public, and gets its files in one commit:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 --tag v1

With a Space that tries the model in the browser, linked from the card:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 \
        --space-id my-group/try-resformer --with-space

What only you know of the data (what they show, their licence, whom to cite and to ask) goes into a card.yaml in the run's
folder, or named by --card; hub_cards/card.yaml is a commented example. It goes along, and later pushes keep it.

A push that broke off, or whose tag, visibility or Space failed, is finished by the same command.

The model is the --output_dir of scripts/train.py, or a folder that this script made, such as
hub_cards/resformer-tiny-isic2017. Refused are runs without results.json, weights with NaN, pickle files, cards with an
invalid header, folders that do not reload elsewhere, and --public for weights learned from data that are not free. Log in
with `hf auth login` first. The exit status is 1 after one line on stderr that says what speaks against it.
"""

import argparse
import logging
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from modeling_resformer.errors import BadInputError
from modeling_resformer.options.push_to_hub import parse
from modeling_resformer.publishing.card import Terms
from modeling_resformer.publishing.hub import MAIN, Push, push_folder, with_kept_card_text
from modeling_resformer.publishing.repository import make_repository
from modeling_resformer.publishing.space import make_space
from modeling_resformer.training.progress import quieten_libraries


logger = logging.getLogger(__name__)


def publish(options: argparse.Namespace) -> None:
    """Makes the folders, and sends them unless asked not to."""
    push = Push(options.repo_id, public=options.public, revision=options.revision, tag=options.tag)
    terms = Terms(
        repo_id=options.repo_id,
        licence=options.license,
        dataset_id=options.dataset_id,
        space_id=options.space_id,
        public=options.public,
        data_allow_sharing=options.data_allow_sharing,
        share_images=options.share_images,
        synthetic=options.synthetic,
        card_text=options.card,
        revision=options.tag or options.revision,
    )
    with tempfile.TemporaryDirectory(prefix="resformer-push-") as scratch:
        if not options.dry_run:
            terms = with_kept_card_text(terms, options.model, push, Path(scratch))
        output = options.output or Path(scratch) / terms.name
        folder = make_repository(options.model, terms, output, options.overwrite)
        if options.dry_run:
            logger.info("%s: complete and tried; nothing was sent", folder)
        else:
            logger.info("pushed: %s", push_folder(folder, push))
        if options.with_space:
            publish_space(options, folder)


def publish_space(options: argparse.Namespace, repository: Path) -> None:
    """Makes the Space that tries the model beside the repository's folder, and sends it unless asked not to."""
    output = repository.with_name(f"{repository.name}-space")
    examples = sorted((repository / "examples").glob("*"))
    revision = options.tag or (None if options.revision == MAIN else options.revision)
    folder = make_space(output, options.repo_id, examples, revision, options.overwrite)
    if options.dry_run:
        logger.info("%s: the Space; nothing was sent", folder)
        return
    push = Push(options.space_id, repo_type="space", public=options.public, message="Add the app that tries the model")
    try:
        logger.info("pushed: %s", push_folder(folder, push))
    except BadInputError as error:
        raise BadInputError(f"{options.repo_id}: is pushed, but its Space is not complete: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    options = parse(sys.argv[1:] if argv is None else argv, __doc__)
    quieten_libraries()
    try:
        publish(options)
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpx2"):  # the Hub client names every request
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.exit(main())
