"""The kind of the images: written by the preparation, read by the training, told in log, record and card."""

import json
from pathlib import Path

import pytest
from prepared_data import prepared_dataset
from published_run import made_up_record, write_run
from raw_data import write_isic, write_mask, write_photograph, write_retouch_volume
from small_model import ARCHITECTURE

from modeling_resformer.commands import prepare_folder, prepare_isic2017, prepare_retouch, train
from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.publishing.card_tables import training_table
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.training.run_record import recipe_of


ROOT = Path(__file__).parents[1]
AUGMENTATION = ("rotation_degrees", "horizontal_flip", "vertical_flip", "scale_jitter", "color_jitter")


def data_arguments(*flags):
    return parse_arguments(["--dataset", "d", "--output_dir", "o", "--use_cpu", *flags])[1]


def as_tuple(augmentation):
    return tuple(getattr(augmentation, name) for name in AUGMENTATION)


def write_folder(root):
    write_photograph(root / "images" / "a.png")
    write_mask(root / "masks" / "a.png")
    return ["--mask-values", "0=background,255=lesion"]


def write_retouch(root):
    write_retouch_volume(root / "Cirrus" / "TRAIN001")
    return []


@pytest.mark.parametrize(
    ("script", "write", "flags", "modality"),
    [
        (prepare_isic2017, lambda root: write_isic(root) and [], [], "dermoscopy"),
        (prepare_retouch, write_retouch, [], "oct"),
        (prepare_folder, write_folder, [], None),
        (prepare_folder, write_folder, ["--modality", "Ultrasound"], "ultrasound"),
    ],
)
def test_a_prepared_folder_says_its_kind_and_an_older_one_tells_it_by_its_builder(
    tmp_path, script, write, flags, modality
):
    flags = [*write(tmp_path / "raw"), *flags]
    assert script.main(["--source", str(tmp_path / "raw"), "--output", str(tmp_path / "out"), *flags]) == 0
    metadata = json.loads((tmp_path / "out" / "resformer.json").read_text())
    assert metadata["modality"] == modality
    assert load_prepared(tmp_path / "out").modality == modality
    del metadata["modality"]
    (tmp_path / "out" / "resformer.json").write_text(json.dumps(metadata))
    assert load_prepared(tmp_path / "out").modality == (None if script is prepare_folder else modality)


def test_a_modality_is_one_word(tmp_path, capsys):
    flags = [*write_folder(tmp_path / "raw"), "--modality", "a | b"]
    flags += ["--source", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    assert prepare_folder.main(flags) == 1
    assert "--modality 'a | b': expected one word" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        ("dermoscopy", (180, 0.5, 0.5, 0, 0)),
        ("oct", (15, 0.5, 0, 0, 0)),
        ("ultrasound", (0, 0.5, 0, 0, 0)),
        ("radiography", (0, 0, 0, 0, 0)),
        (None, (0, 0, 0, 0, 0)),
    ],
)
def test_flags_win_field_by_field_over_the_defaults_of_the_kind(modality, expected):
    assert as_tuple(data_arguments().augmentation(modality)) == expected
    given = data_arguments("--rotation_degrees", "0", "--color_jitter", "0.25").augmentation(modality)
    assert as_tuple(given) == (0, *expected[1:4], 0.25)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("isic2017_paper", (180, 0.5, 0.5, 0, 0)),
        ("retouch_paper", (180, 0.5, 0.5, 0, 0)),
        ("retouch_recommended", (15, 0.5, 0, 0, 0)),
        ("tiny_cpu", (180, 0.5, 0.5, 0, 0)),
        ("isic2017_small_cpu", (180, 0.5, 0.5, 0.25, 0.2)),
    ],
)
@pytest.mark.parametrize("modality", ["oct", None])
def test_recipes_keep_their_own_whatever_the_data_are(name, expected, modality):
    recipe = ROOT / "scripts" / "recipes" / f"{name}.json"
    data = parse_arguments([str(recipe), "--dataset", "d", "--output_dir", "o", "--use_cpu"])[1]
    assert as_tuple(data.augmentation(modality)) == expected


@pytest.mark.parametrize(
    ("flags", "modality", "line"),
    [
        (
            [],
            "oct",
            "rotation by up to 15 degrees, left-right flip with probability 0.5 (all the default for oct)",
        ),
        (
            [],
            None,
            "none (all off, since the kind of the images is unknown, prepare the data with --modality or set them by "
            "flags)",
        ),
        (
            ["--vertical_flip", "0.25"],
            "radiography",
            "upside-down flip with probability 0.25 (vertical_flip as given; else off, since the kind of the images is "
            "radiography, for which there are no defaults)",
        ),
    ],
)
def test_one_line_says_what_is_done_and_why(flags, modality, line):
    assert data_arguments(*flags).explain_augmentation(modality) == f"Augmentation: {line}."


def test_an_impossible_augmentation_is_one_line(capsys):
    assert train.main(["--dataset", "d", "--output_dir", "o", "--use_cpu", "--horizontal_flip", "2"]) == 1
    assert capsys.readouterr().err == "error: horizontal_flip is 2.0; expected a number from 0 to 1.\n"


def test_settings_hold_the_resolved_values_and_repeat_the_run_on_other_data():
    model, data, training = parse_arguments(["--dataset", "d", "--output_dir", "o", "--use_cpu"])
    for modality in ("oct", None):
        settings = recipe_of(model, data.with_augmentation(modality), training)
        assert {name: settings[name] for name in AUGMENTATION} == dict(
            zip(AUGMENTATION, as_tuple(data.augmentation(modality)), strict=True)
        )


def test_a_run_logs_records_and_shows_what_it_did(tmp_path, caplog):
    prepared_dataset().save_to_disk(str(tmp_path / "data"))
    (tmp_path / "data" / "resformer.json").write_text(json.dumps({"modality": "ultrasound"}))
    recipe = {"config": ARCHITECTURE, "image_size": 32, "max_steps": 1, "bootstrap_samples": 0, "use_cpu": True}
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "report_to": "none", "disable_tqdm": True}))
    flags = ["--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--scale_jitter", "0.1"]
    with caplog.at_level("INFO"):
        assert train.main([str(tmp_path / "recipe.json"), *flags]) == 0
    lines = [line for line in caplog.messages if line.startswith("Augmentation:")]
    words = "left-right flip with probability 0.5, scale by up to 1.1"
    assert lines == [f"Augmentation: {words} (scale_jitter as given; else the default for ultrasound)."]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [record["settings"][name] for name in AUGMENTATION] == [0, 0.5, 0, 0.1, 0]
    assert record["dataset"]["modality"] == "ultrasound"
    assert f"| **Augmentation** | {words} |" in training_table(read_facts(tmp_path / "run"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (dict.fromkeys(AUGMENTATION, 0.0), "none"),
        # Runs of before recorded only what differed from the defaults of that time.
        (
            {"vertical_flip": 0},
            "rotation by up to 180 degrees, left-right flip with probability 0.5",
        ),
        (None, "not recorded"),
    ],
)
def test_the_card_tells_the_augmentation_of_any_run(tmp_path, settings, line):
    record = made_up_record()
    del record["settings"]
    record |= {} if settings is None else {"settings": settings}
    facts = read_facts(write_run(tmp_path / "run", record=record, weights=False))
    assert f"| **Augmentation** | {line} |" in training_table(facts)
