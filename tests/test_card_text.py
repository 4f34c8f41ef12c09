"""card.yaml: what an owner says gets into the card as it was meant, and nothing in it can break or outwit the card."""

import re
from pathlib import Path

import pytest
import yaml
from published_run import FLUIDS, made_up_record, write_run


pytest.importorskip("jinja2")

from modeling_resformer.errors import BadInputError
from modeling_resformer.publishing.card import Terms, write_model_card
from modeling_resformer.publishing.card_text import FIELDS, CardText, read_card_text
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.publishing.repository import check_terms
from modeling_resformer.publishing.repository_checks import check_card


ROOT = Path(__file__).parents[1]
BREAST = {"id2label": {0: "background", 1: "tumour"}, "classification_labels": ["malignant"]}


@pytest.fixture
def write(tmp_path):
    """Writes a card.yaml of these bytes or this text."""

    def write(content):
        path = tmp_path / "card.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def card_of(tmp_path):
    """The card of a run beside which such a card.yaml lies."""

    def card_of(content, source="folder", labels=BREAST, **terms):
        run = write_run(tmp_path / "run", labels, record=made_up_record(labels, source=source), weights=False)
        (run / "card.yaml").write_text(content)
        folder = tmp_path / "repository"
        folder.mkdir()
        (folder / "network.png").touch()
        write_model_card(folder, Terms("org/tiny", **terms), read_facts(run))
        check_card(folder / "README.md")
        return (folder / "README.md").read_text()

    return card_of


def example():
    """hub_cards/card.yaml as somebody has it who wants every field."""
    lines = (ROOT / "hub_cards" / "card.yaml").read_text().splitlines()
    return "\n".join(line.removeprefix("# ") for line in lines if not line.startswith("##"))


def test_the_example_shows_every_field_and_says_nothing_until_it_is_filled_in(write):
    assert read_card_text(ROOT / "hub_cards" / "card.yaml") == CardText()
    text = read_card_text(write(example()))
    assert all(getattr(text, name) for name in FIELDS)


def test_every_field_gets_into_the_card(card_of):
    card = card_of(example())
    given = yaml.safe_load(example())
    header = yaml.safe_load(card.split("\n---\n")[0])
    for name, value in given.items():
        for part in value if isinstance(value, list) else value.strip().splitlines():
            if (name, part) != ("weights_licence", "other"):
                assert part in card, name
    assert (header["license"], header["license_name"]) == ("other", "research-only")
    assert {"ultrasound", "breast", "medical"} <= set(header["tags"])
    assert header["model-index"][0]["results"][0]["dataset"]["name"] == given["dataset_name"]
    assert "| **Weights** | research-only |" in card
    assert "Please cite the paper and the data." in card
    for nothing in ("not recorded", "Not recorded", "of its owner's", "What the paper reports", "None"):
        assert nothing not in card
    assert "Out of scope: diagnosis" in card and "**Not a medical device.**" in card  # which no text replaces


def test_a_text_of_some_fields_leaves_the_others_as_they_were(card_of):
    card = card_of("modality: phantoms\n", source="isic2017")
    assert "Trained on ISIC 2017 (phantoms)." in card
    assert "CC0 1.0" in card and "codella2017skin" in card and "Mostly fair skin" in card


def test_gated_data_stay_gated_whatever_is_said(card_of):
    card = card_of("dataset_name: My OCT\nlimits: none at all\n", source="retouch", labels=FLUIDS)
    assert card.count("may not be redistributed without its organisers' consent") == 2
    assert "those of gated data may not be passed on" in card


def test_of_made_up_data_the_owner_speaks_and_nothing_is_said_of_those_whose_layout_they_have(card_of, tmp_path):
    card = card_of("data_licence: CC0 1.0\n", source="retouch", labels=FLUIDS, synthetic=True)
    assert "Trained on made-up data." in card
    assert "| **Licence of the data** | CC0 1.0 |" in card and "| **Data** | CC0 1.0 |" in card
    for absent in ("gated", "RETOUCH", "Three devices", "What the paper reports", "bogunovic"):
        assert absent not in card
    run, plain = tmp_path / "run", tmp_path / "plain"
    plain.mkdir()
    (plain / "network.png").touch()
    (run / "card.yaml").write_text("contact: me\n")
    write_model_card(plain, Terms("org/tiny", synthetic=True), read_facts(run))
    assert "| **Licence of the data** | made-up data |" in (plain / "README.md").read_text()
    # What may be public goes by the record all the same.
    with pytest.raises(BadInputError, match="were trained on RETOUCH, which is gated"):
        check_terms(Terms("org/tiny", synthetic=True, public=True), read_facts(run))


def test_the_flag_wins_over_the_files_licence(card_of):
    assert "license: mit\n" in card_of("weights_licence: apache-2.0\n", licence="mit")


BOMB = "a: &a [x, x]\nb: &b [*a, *a, *a]\ntags: [*b, *b]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("licence: CC0", "'licence' is unknown; expected some of dataset_name, description"),
        ("1: a", "'1' is unknown"),
        ("? [a]\n: b", "'a sequence' is unknown"),
        ("dataset_name: 2017", "dataset_name is a int; expected a text"),
        ("limits: [a, b]", "limits is a list; expected a text"),
        ("contact:", "contact is empty; expected a text"),
        ("contact: ' '", "contact is empty; give a text"),
        ("ethics: 2020-01-01", "ethics is a date; expected a text"),
        ("tags: breast", "tags must be a list of texts"),
        ("tags: []", "tags must be a list of texts"),
        ("tags: [Breast ultrasound]", "tags is 'Breast ultrasound'; expected lower-case letters"),
        ("weights_licence: 'CC BY 4.0'", "weights_licence is 'CC BY 4.0'; expected lower-case letters"),
        ("weights_licence: other", "weights_licence_name goes with 'weights_licence: other'"),
        ("weights_licence_name: mine", "weights_licence_name goes with 'weights_licence: other'"),
        ("modality: a\nmodality: b", "modality is given twice"),
        ('modality: "a\\nb"', "modality has several lines; write it as one"),
        ("contact: |\n  a\n  ---\n  license: mit", "contact has several lines"),
        (f"modality: {'a' * 501}", "modality has 501 characters; at most 500"),
        ('modality: "a\\u2028b"', "modality holds the control character U\\+2028"),
        ('limits: "a\\x07b"', "limits holds the control character U\\+0007"),
        ("limits: |\n  a\n  # Licence: none", "limits has the line '# Licence: none', a heading, rule or code block"),
        ("limits: |\n  a\n  ---", "limits has the line '---', a heading"),
        ("description: |\n  ```\n  a", "description has the line '```', a heading"),
        ("description: |\n  ~~~\n  a", "description has the line '~~~', a heading"),
        ("citation: |\n  @a{b}\n  ```\n  free", "citation holds ```"),
        ("- a", "holds a sequence; expected lines of 'key: text'"),
        ("a text", "holds a scalar; expected lines of 'key: text'"),
        ("limits: [a", "is no valid YAML"),
        ("limits: !!python/object/apply:os.system [ls]", "is no valid YAML"),
        ("limits: !mine a", "is no valid YAML"),
        ("limits: a\n---\nlimits: b", "is no valid YAML"),
        (BOMB, "uses & or \\*, YAML's anchors and aliases"),
        ("limits: &a b", "uses & or \\*, YAML's anchors and aliases"),
        ("limits: " + "[" * 60_000, "is nested 3 levels deep"),
        ("contact: " + "9" * 60_000, "is no valid YAML"),
        ("# " + "a" * 70_000, "is larger than 64 KiB"),
        ("limits: für alle".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_that_names_file_and_key(write, content, message):
    path = write(content)
    with pytest.raises(BadInputError, match=f"^{re.escape(str(path))}: {message}") as caught:
        read_card_text(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(path)) + 450


def test_texts_keep_to_their_place_in_the_card(card_of):
    hostile = (
        "dataset_name: 'A | B <!-- {{ licence }}'\ndata_licence: 'x | y'\n"
        "limits: |\n  <details><summary>a\n  {% raw %} | b\n  ---x\n"
    )
    header, body = card_of(hostile).split("\n---\n", 1)
    assert "<!--" not in body and "<details><summary>a" not in body
    assert "Trained on A \\| B &lt;!-- {{ licence }}.\n" in body
    assert "| **Licence of the data** | x \\| y |\n" in body
    header = yaml.safe_load(header)
    assert header["model-index"][0]["results"][0]["dataset"]["name"] == "A | B <!-- {{ licence }}"


def test_text_of_any_script_is_taken(write):
    assert read_card_text(write("\ufeffcontact: Müller, 東京大学\n")).contact == "Müller, 東京大学"
