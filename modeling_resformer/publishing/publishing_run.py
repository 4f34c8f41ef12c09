"""From a run to the Hub: a complete folder, tried here, then one commit."""

import logging
from pathlib import Path

from ..errors import BadInputError
from ..files import scratch_folder
from .card import Terms
from .hub import MAIN, Push, push_folder, with_kept_card_text
from .repository import make_repository
from .space import make_space


logger = logging.getLogger(__name__)


def publish(
    run: Path,
    terms: Terms,
    push: Push,
    output: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    with_space: bool = False,
) -> None:
    """Makes the repository, and the Space where one is asked for, and sends them.

    Args:
        run: output folder of a training, or a repository that this made.
        terms: what is published as what.
        push: where it goes.
        output: folder to write; a scratch folder where it is not given.
        overwrite: replace an earlier one.
        dry_run: send nothing.
        with_space: make the Space `terms.space_id` too, in a folder beside the repository's.

    Raises:
        BadInputError: something speaks against it, or the Hub does; the message says what is there and what is not.
    """
    with scratch_folder("push") as scratch:
        if not dry_run:
            terms = with_kept_card_text(terms, run, push, scratch)
        folder = make_repository(run, terms, output or scratch / terms.name, overwrite)
        if dry_run:
            logger.info("%s: complete and tried; nothing was sent", folder)
        else:
            logger.info("pushed: %s", push_folder(folder, push))
        if with_space:
            publish_space(folder, terms, push, overwrite, dry_run)


def publish_space(repository: Path, terms: Terms, push: Push, overwrite: bool, dry_run: bool) -> None:
    """Makes the Space that tries the model beside the repository's folder, and sends it unless asked not to."""
    output = repository.with_name(f"{repository.name}-space")
    examples = sorted((repository / "examples").glob("*"))
    revision = push.tag or (None if push.revision == MAIN else push.revision)
    folder = make_space(output, terms.repo_id, examples, revision, overwrite)
    if dry_run:
        logger.info("%s: the Space; nothing was sent", folder)
        return
    space = Push(terms.space_id, repo_type="space", public=push.public, message="Add the app that tries the model")
    try:
        logger.info("pushed: %s", push_folder(folder, space))
    except BadInputError as error:
        raise BadInputError(f"{terms.repo_id}: is pushed, but its Space is not complete: {error}") from error
