"""`card.yaml`: what only the owner of a run can say of it, checked before it goes into the card.

A commented example lies in `hub_cards/card.yaml`.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import BadInputError, one_line


CARD_TEXT_NAME = "card.yaml"
MOST_BYTES = 64 << 10
MOST_CHARACTERS = 500  # of one line
DEEPEST = 2  # a list of tags
PARAGRAPHS = ("description", "limits", "intended_use", "out_of_scope", "ethics", "citation")
LISTS = ("tags",)
HUB_IDS = ("weights_licence", "weights_licence_name")
# In Markdown these would begin a heading, a rule or a code block, and take the rest of the card with them.
STRUCTURE = re.compile(r" {0,3}(#|```|~~~|(-[ \t]*){3,}$|(=[ \t]*)+$|(\*[ \t]*){3,}$|(_[ \t]*){3,}$)")


@dataclass(frozen=True)
class CardText:
    """The owner's words; None where there are none.

    Attributes:
        dataset_name: what the data are called.
        description: paragraphs below the card's title.
        modality: what the images are.
        limits: what is narrow about the data.
        fails_on: what the images do not show, and the model must be expected to get wrong.
        intended_use: paragraphs that take the place of the built-in one.
        out_of_scope: what it must not be used for, beside the built-in list.
        ethics: approval and consent.
        data_licence: of the data, in words.
        weights_licence: Hub id of the weights' licence.
        weights_licence_name: its name, where the Hub id is `other`.
        citation: of the data, BibTeX.
        contact: whom to ask.
        tags: for the Hub, beside the built-in ones.
    """

    dataset_name: str | None = None
    description: str | None = None
    modality: str | None = None
    limits: str | None = None
    fails_on: str | None = None
    intended_use: str | None = None
    out_of_scope: str | None = None
    ethics: str | None = None
    data_licence: str | None = None
    weights_licence: str | None = None
    weights_licence_name: str | None = None
    citation: str | None = None
    contact: str | None = None
    tags: tuple[str, ...] = ()


FIELDS = tuple(field.name for field in fields(CardText))


def read_card_text(path: Path) -> CardText:
    """Reads and checks the owner's text.

    Raises:
        BadInputError: one line that names file and key.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); see hub_cards/{CARD_TEXT_NAME}") from error
    if data is None:
        raise BadInputError(f"{path}: is larger than {MOST_BYTES >> 10} KiB; keep the card's text short")
    try:
        given = parse_plain_yaml(path, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except BadInputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # the latter from a number of thousands of digits
        reason = one_line(error)
        raise BadInputError(f"{path}: is no valid YAML ({reason:.300})") from error
    text = CardText(**{name: checked(path, name, value) for name, value in given.items()})
    if (text.weights_licence == "other") != (text.weights_licence_name is not None):
        raise BadInputError(
            f"{path}: weights_licence_name goes with 'weights_licence: other', and only with it; give both or neither"
        )
    return text


def parse_plain_yaml(path: Path, text: str) -> dict[str, Any]:
    """A mapping of known keys, each given once, from YAML without anchors, and without tags but YAML's own."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if getattr(event, "anchor", None):
            raise BadInputError(f"{path}: uses & or *, YAML's anchors and aliases; write the text out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise BadInputError(f"{path}: is nested {depth} levels deep; expected lines of 'key: text'")
    root = yaml.compose(text, yaml.SafeLoader)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise BadInputError(f"{path}: holds a {root.id}; expected lines of 'key: text'")
    keys = [key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}" for key, _ in root.value]
    for number, key in enumerate(keys):
        if key not in FIELDS:
            raise BadInputError(f"{path}: {key!r:.60} is unknown; expected some of {', '.join(FIELDS)}")
        if key in keys[:number]:
            raise BadInputError(f"{path}: {key} is given twice; keep one")
    return yaml.safe_load(text)


def checked(path: Path, name: str, value: Any) -> str | tuple[str, ...]:
    """A field's value, stripped; BadInputError where it is of another kind or would break the card."""
    if name in LISTS:
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise BadInputError(f"{path}: {name} must be a list of texts, such as [ultrasound, breast]")
        texts: tuple[str, ...] = tuple(item.strip() for item in value)
    elif not isinstance(value, str):
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise BadInputError(f"{path}: {name} is {kind}; expected a text (in quotes), or leave the line out")
    else:
        texts = (value.strip(),)
    for text in texts:
        if problem := next(problems_of(name, text), None):
            raise BadInputError(f"{path}: {name} {problem}")
    return texts if name in LISTS else texts[0]


def problems_of(name: str, text: str) -> Iterator[str]:
    """What speaks against a text, each as the end of a sentence that begins with the key."""
    if not text:
        yield "is empty; give a text, or leave the line out"
    several = name in PARAGRAPHS
    if not several and "\n" in text:
        yield "has several lines; write it as one"
    if not several and len(text) > MOST_CHARACTERS:
        yield f"has {len(text)} characters; at most {MOST_CHARACTERS} go on one line"
    odd = [c for c in text if c not in "\n\t" and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"))]
    if odd or (not several and "\t" in text):
        yield f"holds the control character U+{ord(odd[0] if odd else chr(9)):04X}; remove it"
    if name in (*HUB_IDS, *LISTS) and not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", text):
        yield f"is {text!r:.60}; expected lower-case letters, digits, '.', '_' and '-'"
    bad = next((line for line in text.split("\n") if STRUCTURE.match(line)), None)
    if bad is not None and name != "citation":
        yield f"has the line {bad!r:.60}, a heading, rule or code block in Markdown; write plain paragraphs"
    if name == "citation" and "```" in text:
        yield "holds ```, which would end its code block; remove it"


def markdown(text: str) -> str:
    """A text that keeps to its place in the card: no HTML begins in it, and no table cell ends."""
    return text.replace("<", "&lt;").replace("|", "\\|")
