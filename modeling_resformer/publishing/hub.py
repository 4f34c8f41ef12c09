"""One folder to one repository of the Hub in one commit."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ..data.problems import BadInputError


MAIN = "main"
KEPT = (".gitattributes",)  # the Hub's own


@dataclass(frozen=True)
class Push:
    """Where a folder goes.

    Attributes:
        repo_id: `owner/name`.
        repo_type: `model` or `space`.
        public: everybody may see it; a repository is private otherwise, and until the commit is there.
        revision: branch that gets the commit.
        tag: name given to the commit.
        message: of the commit.
        token: of the Hub; the one of `hf auth login` where it is not given.
    """

    repo_id: str
    repo_type: str = "model"
    public: bool = False
    revision: str = MAIN
    tag: str | None = None
    message: str = "Add the model with its code, card and results"
    token: str | None = field(default=None, repr=False)


def push_folder(folder: Path, push: Push) -> str:
    """Makes the repository what the folder is, by one commit: files that the folder lacks go; returns the commit's address.

    `HfApi.upload_folder` would split a large folder into several commits, of which a reader may meet the first alone.

    Raises:
        BadInputError: the Hub refuses or cannot be reached; the message says how to go on, and the revision that was
            there is still there.
    """
    api = HfApi(token=push.token)
    with as_one_line(folder, push):
        validate_card(folder / "README.md", push.repo_type)
        exists = check_target(api, push)
        if not exists:
            sdk = "gradio" if push.repo_type == "space" else None
            api.create_repo(push.repo_id, repo_type=push.repo_type, private=True, space_sdk=sdk)
        if push.revision != MAIN:
            api.create_branch(push.repo_id, repo_type=push.repo_type, branch=push.revision, exist_ok=True)
        commit = api.create_commit(
            push.repo_id,
            list(operations(api, folder, push)),
            commit_message=push.message,
            repo_type=push.repo_type,
            revision=push.revision,
        )
        if push.tag is not None:
            api.create_tag(push.repo_id, tag=push.tag, revision=commit.oid, repo_type=push.repo_type)
        if push.public:
            api.update_repo_settings(push.repo_id, private=False, repo_type=push.repo_type)
    return commit.commit_url


def validate_card(path: Path, repo_type: str) -> None:
    """Asks the Hub whether it would take the card's header."""
    try:
        RepoCard.load(path).validate(repo_type=repo_type)
    except ValueError as error:
        try:
            reason = "; ".join(problem["message"] for problem in json.loads(str(error))["errors"])
        except (ValueError, KeyError, TypeError):
            reason = " ".join(str(error).split())
        raise BadInputError(f"{path}: the Hub refuses its header ({reason})") from error


def check_target(api: HfApi, push: Push) -> bool:
    """Whether the repository is there already; refuses one that is public unasked, or has the tag."""
    try:
        info = api.repo_info(push.repo_id, repo_type=push.repo_type)
    except RepositoryNotFoundError:
        return False
    if not info.private and not push.public:
        raise BadInputError(f"{push.repo_id}: is public already; say --public, or make it private on the Hub first")
    if push.tag is not None:
        refs = api.list_repo_refs(push.repo_id, repo_type=push.repo_type)
        if any(tag.name == push.tag for tag in refs.tags):
            raise BadInputError(
                f"{push.repo_id}: has a tag {push.tag} already, which others may rely on; give a new --tag"
            )
    return True


def operations(api: HfApi, folder: Path, push: Push) -> Iterator[CommitOperationAdd | CommitOperationDelete]:
    """Every file of the folder, and the end of every other file of the repository."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
    try:
        there = api.list_repo_files(push.repo_id, repo_type=push.repo_type, revision=push.revision)
    except RevisionNotFoundError:  # an empty repository
        there = []
    for name in sorted(set(there) - set(files) - set(KEPT)):
        yield CommitOperationDelete(path_in_repo=name)


@contextmanager
def as_one_line(folder: Path, push: Push) -> Iterator[None]:
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:  # the client's network errors are of other classes from version to version
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(
            f"{folder}: is complete but was not pushed to {push.repo_id} ({reason}); log in with `hf auth login` and "
            "push again"
        ) from error
