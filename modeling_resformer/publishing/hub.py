"""One folder to one repository of the Hub in one commit."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, RepoFile
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ..errors import BadInputError, one_line
from .card import Terms
from .card_text import CARD_TEXT_NAME
from .repository import check_publishable


logger = logging.getLogger(__name__)

MAIN = "main"
KEPT = (".gitattributes",)  # the Hub's own


@dataclass(frozen=True)
class Push:
    """Where a folder goes.

    Attributes:
        repo_id: `owner/name`.
        repo_type: `model` or `space`.
        sdk: of a Space, `gradio` or `static`.
        public: everybody may see it; a repository is private otherwise, and until the commit is there.
        revision: branch that gets the commit.
        tag: name given to the commit.
        message: of the commit.
        token: of the Hub; the one of `hf auth login` where it is not given.
    """

    repo_id: str
    repo_type: str = "model"
    sdk: str = "gradio"
    public: bool = False
    revision: str = MAIN
    tag: str | None = None
    message: str = "Add the model with its code, card and results"
    token: str | None = field(default=None, repr=False)


def push_folder(folder: Path, push: Push) -> str:
    """Makes the repository what the folder is, by one commit: files that the folder lacks go; returns the commit's address.

    What a push that broke off had done already is not done again, so that the same call finishes it.
    `HfApi.upload_folder` would split a large folder into several commits, of which a reader may meet the first alone.

    Raises:
        BadInputError: the Hub refuses or cannot be reached; the message says what is there and how to go on, and the
            revision that was there is still there.
    """
    api = HfApi(token=push.token)
    with named_push_failure(f"{folder}: is complete but was not pushed to {push.repo_id}"):
        validate_card(folder / "README.md", push.repo_type)
        tagged = check_target(api, folder, push)
        if tagged is None and push.revision != MAIN:
            api.create_branch(push.repo_id, repo_type=push.repo_type, branch=push.revision, exist_ok=True)
        commit = tagged or present_commit(api, folder, push, push.revision) or new_commit(api, folder, push)
    url = f"{api.endpoint}/{'' if push.repo_type == 'model' else push.repo_type + 's/'}{push.repo_id}/commit/{commit}"
    finish(api, push, commit, url, is_tagged=tagged is not None)
    return url


def new_commit(api: HfApi, folder: Path, push: Push) -> str:
    """Sends the folder as one commit; returns its id. The Hub refuses it where another push came first."""
    before = api.repo_info(push.repo_id, repo_type=push.repo_type, revision=push.revision).sha
    commit = api.create_commit(
        push.repo_id,
        list(operations(api, folder, push)),
        commit_message=push.message,
        repo_type=push.repo_type,
        revision=push.revision,
        parent_commit=before,
    )
    return commit.oid


def finish(api: HfApi, push: Push, commit: str, url: str, is_tagged: bool) -> None:
    """Tag and visibility, which come once the commit is there.

    Raises:
        BadInputError: one of them failed; the message says what is there and what is not.
    """
    steps: dict[str, Callable[[], object]] = {}
    if push.tag is not None and not is_tagged:
        steps[f"the tag {push.tag}"] = lambda: api.create_tag(
            push.repo_id, tag=push.tag, revision=commit, repo_type=push.repo_type
        )
    if push.public:
        steps["its being public"] = lambda: api.update_repo_settings(
            push.repo_id, private=False, repo_type=push.repo_type
        )
    for number, step in enumerate(steps.values()):
        missing = " and ".join(list(steps)[number:])
        with named_push_failure(f"{push.repo_id}: has the commit {url}, but still lacks {missing}"):
            step()


def validate_card(path: Path, repo_type: str) -> None:
    """Asks the Hub whether it would take the card's header."""
    try:
        RepoCard.load(path).validate(repo_type=repo_type)
    except ValueError as error:
        try:
            reason = "; ".join(problem["message"] for problem in json.loads(str(error))["errors"])
        except (ValueError, KeyError, TypeError):
            reason = one_line(error)
        raise BadInputError(f"{path}: the Hub refuses its header ({reason})") from error


def check_target(api: HfApi, folder: Path, push: Push) -> str | None:
    """Makes the repository where there is none; returns the commit of the tag where it names this very folder already.

    Raises:
        BadInputError: the repository is public unasked, or its tag names something else.
    """
    try:
        info = api.repo_info(push.repo_id, repo_type=push.repo_type)
    except RepositoryNotFoundError:
        sdk = push.sdk if push.repo_type == "space" else None
        api.create_repo(push.repo_id, repo_type=push.repo_type, private=True, space_sdk=sdk, exist_ok=True)
        return None
    if not info.private and not push.public:
        raise BadInputError(f"{push.repo_id}: is public already; say --public, or make it private on the Hub first")
    if push.tag is None:
        return None
    refs = api.list_repo_refs(push.repo_id, repo_type=push.repo_type)
    if all(tag.name != push.tag for tag in refs.tags):
        return None
    commit = present_commit(api, folder, push, push.tag)
    if commit is None:
        raise BadInputError(
            f"{push.repo_id}: has a tag {push.tag} already, which others may rely on; give a new --tag"
        )
    return commit


def present_commit(api: HfApi, folder: Path, push: Push, revision: str) -> str | None:
    """The commit that a revision names, where it holds this very folder and nothing else; None otherwise."""
    try:
        tree = list(api.list_repo_tree(push.repo_id, recursive=True, revision=revision, repo_type=push.repo_type))
    except RevisionNotFoundError:  # an empty repository
        return None
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path not in KEPT}
    files = files_of(folder)
    if set(there) != set(files) or not all(is_same(files[name], entry) for name, entry in there.items()):
        return None
    return api.repo_info(push.repo_id, repo_type=push.repo_type, revision=revision).sha


def is_same(path: Path, entry: RepoFile) -> bool:
    """Whether a file is the one of the Hub, which names large files by SHA-256 and others as git does."""
    if path.stat().st_size != entry.size:
        return False
    data = path.read_bytes()
    if entry.lfs is not None:
        return hashlib.sha256(data).hexdigest() == entry.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == entry.blob_id


def with_kept_card_text(terms: Terms, run: Path, push: Push, scratch: Path) -> Terms:
    """The terms with the `card.yaml` that the repository has on the Hub, where neither they nor the run bring one.

    Args:
        terms: what is published as what.
        run: its folder.
        push: where it goes.
        scratch: a folder to keep the text in until the repository is made.

    Raises:
        BadInputError: something speaks against publishing, or the Hub cannot be reached.
    """
    check_publishable(run, terms)  # before the Hub is asked anything
    if terms.card_text is not None or (run / CARD_TEXT_NAME).exists():
        return terms
    api = HfApi(token=push.token)
    with named_push_failure(f"{push.repo_id}: cannot be asked for its {CARD_TEXT_NAME}, so nothing was pushed"):
        for revision in dict.fromkeys((push.revision, MAIN)):
            place = {"repo_id": push.repo_id, "filename": CARD_TEXT_NAME, "revision": revision}
            if api.file_exists(**place):
                logger.info("%s: its %s is kept", push.repo_id, CARD_TEXT_NAME)
                return replace(terms, card_text=Path(api.hf_hub_download(**place, local_dir=scratch / ".kept")))
    return terms


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its name in a repository."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def operations(api: HfApi, folder: Path, push: Push) -> Iterator[CommitOperationAdd | CommitOperationDelete]:
    """Every file of the folder, and the end of every other file of the repository."""
    files = files_of(folder)
    for name, path in files.items():
        yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
    try:
        there = api.list_repo_files(push.repo_id, repo_type=push.repo_type, revision=push.revision)
    except RevisionNotFoundError:  # an empty repository
        there = []
    for name in sorted(set(there) - set(files) - set(KEPT)):
        yield CommitOperationDelete(path_in_repo=name)


@contextmanager
def named_push_failure(state: str) -> Iterator[None]:
    """Any error of the Hub's client as one line that begins with what is there and what is not."""
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:  # the client's network errors are of other classes from version to version
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(
            f"{state} ({reason}); log in with `hf auth login` where that is why, and give the same command again"
        ) from error
