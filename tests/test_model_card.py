"""The card says what the run measured and recorded, says so where something is missing, and claims nothing else."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import ExifTags, Image
from published_run import FLUIDS, ISIC, made_up_record, made_up_results, write_run

from modeling_resformer import ResFormerImageProcessor
from modeling_resformer.errors import BadInputError
from modeling_resformer.heads import TASKS
from modeling_resformer.publishing.card import Terms, write_model_card
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.publishing.repository_checks import check_card


ROOT = Path(__file__).parents[1]


@pytest.fixture
def render(tmp_path):
    """Renders the card of a run with these results and this record; returns its text."""

    def render(labels=ISIC, task="multi_task", results=None, record=None, images=(), examples=(), **terms):
        run = write_run(tmp_path / "run", labels, task, results, record, weights=False)
        folder = tmp_path / "repository"
        folder.mkdir(exist_ok=True)
        (folder / "examples").mkdir(exist_ok=True)
        for name in ("network.png", *images, *(f"examples/{example}" for example in examples)):
            (folder / name).touch()
        write_model_card(folder, Terms("org/tiny", **terms), read_facts(run), examples)
        check_card(folder / "README.md")
        return (folder / "README.md").read_text()

    return render


def header(text):
    return yaml.safe_load(text.split("\n---\n")[0])


def test_the_header_tells_the_hub_what_it_asks_for(render):
    text = render(dataset_id="org/isic2017", examples=["ISIC_0000051.jpg"])
    card = header(text)
    assert card["library_name"] == "transformers"
    assert card["pipeline_tag"] == "image-segmentation"
    assert card["license"] == "apache-2.0"
    assert card["datasets"] == ["org/isic2017"]
    assert {"dice", "jaccard", "auc", "accuracy"} <= set(card["metrics"])
    assert {"medical", "custom_code", "image-classification", "dermoscopy", "arxiv:2412.00351"} <= set(card["tags"])
    # A path of the repository, which holds under every name and revision.
    assert card["widget"] == [{"src": "examples/ISIC_0000051.jpg", "example_title": "ISIC_0000051"}]
    found = {(r.dataset_config, r.metric_type): r.metric_value for r in ModelCard(text).data.eval_results}
    assert found["default", "dice"] == 0.88
    assert found["default", "auc"] == 0.85


def test_the_card_says_how_images_are_brought_to_their_size(render, monkeypatch):
    assert "squashed to 48 x 64" in render()
    monkeypatch.setattr(ResFormerImageProcessor, "keep_aspect_ratio", True)
    assert "fitted and padded to 48 x 64" in render()


def test_the_card_says_how_pixels_are_normalised(render, monkeypatch):
    assert "ImageNet mean and standard deviation" in render()
    monkeypatch.setattr(ResFormerImageProcessor, "image_mean", [127 / 255] * 3)
    monkeypatch.setattr(ResFormerImageProcessor, "image_std", [0.2, 0.3, 0.4])
    text = render()
    assert "mean 0.498 and standard deviation 0.2, 0.3, 0.4;" in text and "ImageNet mean" not in text


def test_the_card_tells_of_a_backbone_a_teacher_and_the_whole_augmentation(render):
    record = made_up_record()
    record["model"] |= {
        "initial_weights": {"checkpoint": None, "resnet": None, "backbone": "efficientnet-lite0"},
        "teacher": "org/wise",
    }
    record["settings"] |= {"distillation_weight": 0.5, "shift": 0.1, "border": "reflect", "mixup": 0.2}
    text = render(record=record)
    assert (
        "the backbone from `efficientnet-lite0` (Google's EfficientNet-Lite, Apache-2.0, trained on ImageNet" in text
    )
    assert "+ 0.5 x divergence from the answers of `org/wise`" in text
    assert "shift by up to 10%, reflected borders, blended in pairs (mixup 0.2)" in text
    record["model"]["initial_weights"]["backbone"] = "microsoft/resnet-50"
    assert "the backbone from `microsoft/resnet-50`, the rest random" in render(record=record)


def test_every_fact_of_the_run_is_there(render):
    text = render(images=["report.png", "samples.png"], space_id="org/space")
    for fact in (
        "commit `0123abcd`",
        "Abacus 9000",
        "30.0 minutes",
        "torch 2.14.1",
        "residual layers from `microsoft/resnet-34`",
        "| **Seed** | 7;",
        "15, 1875, 12",
        "1 x (soft Dice) for the mask + 0.25 x binary cross-entropy for the image-level classes",
        "by case, seed 0",
        "256 x 256",
        "`f00d`",
        "CC0 1.0",
        "0.880 (0.860 to 0.900)",
        "| melanoma | 0.5 | 42 | 14 | 61 | 183 |",
        "](report.png)",
        "(samples.png)",
        "https://huggingface.co/spaces/org/space",
        "**Not a medical device.**",
        "arXiv:1710.05006",
        '"hidden_sizes": [8, 16, 24, 32]',
    ):
        assert fact in text, fact
    assert not re.search(r"\{\{ |\{%|None|Undefined", text)


def test_what_was_not_recorded_says_so(render):
    text = render(record={})
    assert "a dataset that is not recorded" in text
    assert "of which it is not recorded whether they took part in training" in text
    for name in ("Seed", "Hardware", "Duration", "Libraries", "Code", "Initial weights", "Selected weights"):
        assert f"| **{name}** | not recorded |" in text
    card = header(text)
    assert (card["license"], card["license_name"]) == ("other", "ask-the-owner")
    assert "widget" not in card and "datasets" not in card


def test_good_numbers_are_called_good(render):
    text = render()
    assert "better than every trivial baseline: Dice 0.880 (0.860 to 0.900) against 0.580 (0.550 to 0.610)" in text
    assert "Better than chance (the interval of the AUC lies above 0.5): melanoma 0.850 (0.800 to 0.900)" in text
    assert "do not use" not in text


def test_an_auc_without_an_interval_is_shown_and_not_trusted(render):
    text = render(results=made_up_results(auc=(1.0, None, None)))
    assert "**No interval of the AUC is known, so do not rely on the scores**: melanoma 1.000; " in text
    assert "Nothing is known" not in text


def test_scores_at_chance_must_not_be_used(render):
    text = render(results=made_up_results(auc=(0.53, 0.41, 0.66)))
    assert "**Not shown to be better than chance, so do not use the scores**: melanoma 0.530 (0.410 to 0.660)" in text
    assert "Better than chance" not in text


@pytest.mark.parametrize(
    ("dice", "words"),
    [
        ((0.55, 0.5, 0.6), "no better than a trivial baseline; do not use them"),
        ((0.62, 0.58, 0.66), "above every trivial baseline, but the intervals meet"),
        ((0.7, None, None), "above every trivial baseline, but the intervals meet or are unknown"),
    ],
)
def test_masks_are_judged_by_the_baseline(render, dice, words):
    assert words in render(results=made_up_results(dice=dice))


def test_few_cases_and_missed_classes_are_named(render):
    results = made_up_results()
    results["cases"] = 14
    results["model"]["sensitivity_melanoma"] = {"value": 0.2, "low": 0.0, "high": 0.6, "n": 14}
    results["model"]["specificity_nevus"] = {"value": 0.4, "low": 0.2, "high": 0.6, "n": 14}
    text = render(results=results)
    assert "It reports nevus in 60% of the images without it at its threshold of 0.5." in text
    assert "Only 14 cases were tested" in text
    assert "It misses 80% of the images with melanoma at its threshold of 0.5." in text


def test_classes_left_out_of_means_and_too_few_cases_stand_beside_the_headline(render):
    results = made_up_results(FLUIDS)
    warning = "Only 4 cases were scored: with fewer than 10, no figure is more than an impression."
    results |= {"left_out_of_means": ["SRF", "PED"], "cases": 4, "warnings": [warning], "group_by": "vendor"}
    part = {"images": 49, "cases": 4, **{key: copy.deepcopy(results[key]) for key in ("model", "baselines")}}
    results["groups"] = {"Cirrus": {**part, "left_out_of_means": ["PED"]}, "Topcon": part}
    text = render(FLUIDS, results=results)
    headline, rest = text.split("## Use")
    assert "Means of Dice and Jaccard leave out SRF, PED: no true mask here holds any." in headline
    assert f"**{warning}**" in headline
    overall, groups = rest.split("### By vendor")
    assert "leave out SRF, PED" in overall
    cirrus, topcon = groups.split("#### Topcon")
    assert "leave out PED: " in cirrus
    assert "leave out" not in topcon


def test_images_that_nobody_annotated_are_told_apart_from_those_scored(render):
    results = made_up_results(FLUIDS)
    results["model"]["volume_difference"] = {"value": 0.02, "low": 0.01, "high": 0.03, "n": 4}
    assert "annotated" not in render(FLUIDS, results=results)
    part = {"images": 20, "cases": 2, "unannotated": 1, **{key: results[key] for key in ("model", "baselines")}}
    results |= {"images": 274, "unannotated": 26, "group_by": "vendor", "groups": {"Cirrus": part}}
    text = render(FLUIDS, results=results)
    # The record's 300 rows of the test split are all accounted for.
    assert "On the 274 images of the split `test` (26 more are not annotated), which took no part in training" in text
    assert "274 images of 250 cases (26 more are not annotated), which took no part in training" in text
    assert "#### Cirrus: 20 images of 2 cases (1 more is not annotated)" in text
    assert "`volume_difference` sums annotated slices only" in text


def test_figures_of_a_part_that_was_trained_on_flatter(render):
    assert "so that these figures **flatter**" in render(results={**made_up_results(), "split": "validation"})


def test_undefined_scores_are_left_out(render):
    results = made_up_results()
    for name in ("auc_melanoma", "dice_present", "false_positive_rate_empty"):
        results["model"][name] = {"value": None, "low": None, "high": None, "n": 0}
    text = render(results=results)
    assert "Nothing is known about how well it tells melanoma" in text
    assert "dice_present" not in header(text)["metrics"]


@pytest.mark.parametrize(
    ("task", "tag", "there", "absent"),
    [
        ("segmentation", "image-segmentation", "AutoModelForSemanticSegmentation", 'pipeline("image-classification"'),
        ("classification", "image-classification", 'pipeline("image-classification"', "**Mask**"),
    ],
)
def test_models_of_one_task_speak_of_that_task(render, task, tag, there, absent):
    text = render(task=task)
    assert header(text)["pipeline_tag"] == tag
    assert there in text
    assert absent not in text
    assert "would draw the other one at random" in text
    found = {result.task_type for result in ModelCard(text).data.eval_results}
    assert found == {tag}


def test_each_vendor_has_its_entry_and_its_table(render):
    results = made_up_results(FLUIDS)
    part = {key: copy.deepcopy(results[key]) for key in ("model", "baselines")}
    results |= {"group_by": "vendor", "groups": {}}
    for number, vendor in enumerate(("Cirrus", "Spectralis", "Topcon")):
        part["model"]["dice"] = {"value": 0.7 + number / 100, "low": 0.6, "high": 0.8, "n": 49}
        results["groups"][vendor] = {"images": 49, "cases": 4, **copy.deepcopy(part)}
    text = render(FLUIDS, results=results, record=made_up_record(FLUIDS, source="retouch", config="all"))
    found = {(r.dataset_config, r.metric_type): r.metric_value for r in ModelCard(text).data.eval_results}
    assert [found[vendor, "dice"] for vendor in ("Cirrus", "Spectralis", "Topcon")] == [0.7, 0.71, 0.72]
    assert "#### Spectralis: 49 images of 4 cases" in text
    assert "may not be redistributed without its organisers' consent" in text
    assert "those of gated data may not be passed on" in text
    assert "| Cirrus, sequential | 73.4 | 83.0 | 98.9 | 98.1 | 99.2 |" in text  # the paper's Table 8
    assert "not measured here and are **not comparable**" in " ".join(text.split())
    card = header(text)
    assert (card["license"], card["license_name"]) == ("other", "ask-the-owner")


def test_subgroups_come_with_their_largest_gap(render):
    def group(images, dice, auc):
        scores = {"dice": {"value": dice, "low": dice - 0.1, "high": dice + 0.1, "n": images}, "auc": auc}
        return {"images": images, "cases": images, "unannotated": 0, "model": scores}

    results = made_up_results(ISIC)
    results["subgroups"] = {
        "age": {
            "groups": {
                "over 60": group(40, 0.75, {"value": 0.9, "low": None, "high": None, "n": 40}),
                "unknown": group(7, 0.95, {"value": None, "low": None, "high": None, "n": 0}),
                "up to 45": group(50, 0.85, {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50}),
            },
            "largest_gaps": {"dice": {"gap": 0.1, "highest": "up to 45", "lowest": "over 60"}},
        }
    }
    text = render(results=results)
    lines = [line for line in text.splitlines() if line.startswith(("| up to 45", "| over 60", "| unknown"))]
    assert [line.split(" | ")[0] for line in lines] == ["| up to 45", "| over 60", "| unknown"]
    assert "0.850 (0.750 to 0.950)" in lines[0] and "0.900" in lines[1] and lines[2].count("| - ") >= 1
    assert "0.100 (up to 45 against over 60)" in text
    assert "### By subgroup" not in render()


def test_whether_it_knows_what_it_does_not_know_is_told(render):
    assert "It has no way to say that an image is not of its kind" in render()
    results = made_up_results(ISIC)
    results["trust"] = {
        "rows": 300,
        "right": 0.65,
        "mean_confidence": 0.64,
        "auroc": 0.83,
        "errors_refused": {"share": 0.1, "wrong": 0.267, "dice": None},
        "flags": {"unlike_training_images": 0.007, "low_confidence": 0.1},
    }
    text = render(results=results)
    assert "no way to say" not in text and "outline and score anything, an image of another kind too" in text
    assert "65% of the answers were right and the mean confidence was 64%" in text
    assert "held 27% of the wrong answers. 0.7% of these images" in text and "missing Dice" not in text


def test_a_phantoms_card_says_so_and_sets_no_figure_of_the_paper_beside_its_own(render):
    text = render(FLUIDS, record=made_up_record(FLUIDS, source="retouch_phantom", config="all"))
    assert "the OCT PHANTOM in the layout of RETOUCH" in text
    assert "no figure here says anything about patients" in " ".join(text.split())
    assert "Cirrus, sequential" not in text and "without its organisers' consent" not in text


def test_the_papers_figures_are_those_of_its_table_4(render):
    text = render()
    assert "| sequential | 78.6 | 86.6 | 84.6 | 75.7 | 89.1 |" in text
    assert "| parallel | 78.4 | 86.5 | 83.6 | 74.3 | 88.3 |" in text


def test_a_folder_of_ones_own(render):
    text = render(record={**made_up_record(source="my scanner"), "task": "multi_task"})
    assert "Trained on `data`, a dataset of its owner's.\n" in text
    assert "one image of the kind it was trained on, any size" in text
    assert "paper reports" not in text and "paper's model" not in text  # which never saw these data
    assert "Please cite the paper.\n" in text
    found = {(r.dataset_name, r.dataset_type) for r in ModelCard(text).data.eval_results}
    assert found == {("data", "data")}


def test_one_class_is_not_spoken_of_as_several(render):
    labels = {"id2label": {0: "background", 1: "tumour"}, "classification_labels": ["malignant"]}
    results = made_up_results(labels)
    results["baselines"]["everything_lesion"] = results["baselines"]["otsu_threshold"]
    text = render(labels, results=results, record=made_up_record(labels, source="folder"))
    assert "| everything tumour |" in text and "lesion" not in text
    assert "a mask of tumour, and a score for malignant.\n" in text
    assert "; area under the ROC curve 0.850" in text
    assert "| **Scores** | malignant; a sigmoid |" in text
    assert "all classes" not in text


def test_classes_that_exclude_each_other_are_spoken_of_as_such(render):
    results = made_up_results()
    results["thresholds"] = {}
    results["model"]["balanced_accuracy"] = results["model"]["accuracy"]
    text = render({**ISIC, "classification_type": "exclusive"}, results=results)
    assert "a score for each of melanoma, seborrheic_keratosis, nevus, of which each image has exactly one.\n" in text
    assert "each image has exactly one of them: a softmax, so the scores add up to 1 |" in text
    assert "| **Decision** | exactly one class, that of the highest score |" in text
    assert (
        "| balanced accuracy (`balanced_accuracy`) | 300 |" in text and "sensitivity of the whole is the share" in text
    )
    assert "| class | found | missed |" in text and "cross-entropy for the image-level classes, one an image" in text
    assert "sigmoid" not in text and "threshold" not in text.replace("Otsu's threshold", "")


def test_a_model_of_one_task_is_not_told_of_the_other(render):
    assert "asks were scored" not in render(task="classification")
    assert "it will outline anything" in render(task="segmentation")


def test_a_short_training_took_seconds(render):
    assert "| **Duration** | 9 seconds |" in render(record={**made_up_record(), "duration_seconds": 9.2})


def test_the_examples_name_the_revision_that_was_published(render):
    assert render(revision="v1").count('"v1"') == 4
    assert "`main` pins nothing: put a tag or a commit there" in render()
    assert "pins nothing" not in render(revision="v1")


def test_the_stock_example_says_at_once_what_it_does_to_sixteen_bits(render):
    for task, place in (("multi_task", "above"), ("classification", "below")):
        before = render(task=task).split('pipeline("image-classification"')[0].split("```python")[-2]
        said = " ".join(before.split("```")[-1].split())
        assert "**8-bit images only**" in said and f"the repository's own pipeline {place}:" in said


def test_intervals_are_spoken_of_where_a_score_has_one(render):
    assert "In brackets: 95 %" in render() and " Intervals: 95 %" in render()
    results = made_up_results()
    for one in results["model"].values():
        one |= {"low": None, "high": None}
    text = render(results=results)
    assert "In brackets" not in text and " Intervals:" not in text and "No intervals were computed." in text


@pytest.mark.parametrize(
    ("record", "is_volumes"),
    [
        (made_up_record(source="retouch"), True),
        (
            {**made_up_record(), "dataset": {**made_up_record()["dataset"], "source": "folder", "modality": "oct"}},
            True,
        ),
        (made_up_record(), False),
    ],
)
def test_of_volumes_the_examples_take_a_slice_and_predict_the_whole(render, record, is_volumes):
    text = render(record=record)
    assert ("bscan.png" in text, "photo.jpg" in text) == (is_volumes, not is_volumes)
    assert ("`scripts/predict.py` of the project's own code takes whole volumes" in text) == is_volumes


def test_synthetic_data_make_no_result(render):
    text = render(synthetic=True)
    assert "> **SYNTHETIC.**" in text
    assert "model-index" not in header(text)
    assert "synthetic-data" in header(text)["tags"]


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("license: [apache", "YAML header is invalid"),
        ("license: 2", "license must be a text"),
        ("license: other", "needs a license_name"),
        ("tags: medical", "tags must be a list of texts"),
        ("widget:\n- src: examples/a.jpg", "examples/a.jpg is no file of the repository"),
        ("widget:\n- src: http://a.org/a.jpg", "needs a src: a file of the repository"),
        ("widget:\n- src: /a.jpg", "needs a src: a file of the repository"),
        ("widget:\n- text: a", "needs a src: a file of the repository"),
    ],
)
def test_an_invalid_header_is_refused(tmp_path, spoilt, message):
    (tmp_path / "README.md").write_text(f"---\n{spoilt}\n---\n\n# Card\n")
    with pytest.raises(BadInputError, match=message):
        check_card(tmp_path / "README.md")


def test_a_card_without_a_header_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("# Card\n")
    with pytest.raises(BadInputError, match="no YAML header"):
        check_card(tmp_path / "README.md")


EXAMPLES = """
import json, re, sys
from pathlib import Path
import numpy as np
if sys.argv[1] == "package":
    import modeling_resformer
else:
    sys.modules["modeling_resformer"] = None

def run(block, repository, photo):
    code = block.replace("org/tiny", repository).replace("photo.jpg", photo)
    if sys.argv[1] == "package":
        code = re.sub(r', "?trust_remote_code"?(=|: )True', "", code)
        assert "trust_remote_code" not in code
        if "pipeline(model=" in code and "pipeline_class" not in code:
            try:
                exec(code, {})
            except ValueError as error:  # as the card says
                assert "trust_remote_code=True" in str(error), error
                return None
            sys.exit("a pipeline without a task worked without trust_remote_code: say so in the card")
    elif "import modeling_resformer" in code:
        return None
    names = {}
    exec(code, names)
    if "mask" in names:
        return {"mask": names["mask"]}
    if "classify" in names:
        return {"scores": {one["label"]: one["score"] for one in names["classify"](photo)}}
    answer = names["analyse"](photo)
    found = {"mask": answer.get("segmentation"), "scores": answer.get("class_scores")}
    return {kind: value for kind, value in found.items() if value is not None}

seen = {}
for repository in sorted(Path("repositories").iterdir()):
    blocks = re.findall(r"```python\\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    answers = [[run(block, str(repository), photo) for photo in ("upright.png", "rotated.png")] for block in blocks]
    answers = [pair for pair in answers if pair[0] is not None]
    for upright, rotated in answers:
        assert upright.keys() == rotated.keys()
        if "mask" in upright:
            assert upright["mask"].shape == (61, 83) and len(upright["mask"].unique()) > 1
            np.testing.assert_array_equal(upright["mask"], rotated["mask"])
        for name, score in upright.get("scores", {}).items():
            assert abs(score - rotated["scores"][name]) < 1e-5
    seen[repository.name] = [sorted(upright) for upright, _ in answers]
print(json.dumps(seen))
"""


def find_both_mask_classes(folder, task, image):
    """Centres the logits of random weights on zero for this image, and spreads them."""
    model = TASKS[task].model_class.from_pretrained(folder)
    head = model.segmentation_head.classifier
    with torch.no_grad():
        output = model(**ResFormerImageProcessor.from_pretrained(folder)(image, return_tensors="pt"))
        head.bias -= output["segmentation_logits" if task == "multi_task" else "logits"].mean((0, 2, 3))
        head.weight *= 80
        head.bias *= 80
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def three_repositories(tmp_path_factory):
    """A saved folder and its card for every task, and one image stored upright and turned by its EXIF orientation."""
    folder = tmp_path_factory.mktemp("examples")
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    upright = Image.fromarray(coarse).resize((83, 61), Image.Resampling.NEAREST)
    for task in ("multi_task", "segmentation", "classification"):
        saved = write_run(folder / "repositories" / task, task=task)
        if task != "classification":
            find_both_mask_classes(saved, task, upright)
        write_model_card(saved, Terms("org/tiny"), read_facts(saved))
    upright.save(folder / "upright.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "rotated.png", exif=exif)
    return folder


# The README's own example, with the package, is run by test_docs.py.
@pytest.mark.parametrize("code", [pytest.param("package", marks=pytest.mark.slow), "repository"])
@pytest.mark.long
def test_the_examples_run_and_masks_fit_the_upright_image(three_repositories, code, tmp_path):
    command = [sys.executable, "-P", "-c", EXAMPLES, code]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, cwd=three_repositories, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    # Every block but the one that needs the other kind of code.
    assert json.loads(finished.stdout.splitlines()[-1]) == {
        "multi_task": {
            "package": [["mask"], ["scores"], ["mask", "scores"]],
            "repository": [["mask", "scores"], ["mask"], ["scores"]],
        }[code],
        "segmentation": [["mask"], ["mask"]],
        "classification": [["scores"], ["scores"]],
    }


METRIC_CARDS = sorted((ROOT / "hub_cards").glob("metric_card_*.md"))


RUN_BLOCKS = """
import json, sys
for code in json.loads(sys.argv[1]):
    names = {}
    exec(code, names)
    print(json.dumps(names["scores"]))
"""


@pytest.mark.long
def test_the_worked_examples_of_the_metric_cards(tmp_path):
    """Each block by itself, in a process where `import evaluate` cannot meet scripts/evaluate.py."""
    examples = []
    for path in METRIC_CARDS:
        check_card(path)
        found = re.findall(r"```python\n(.*?)```\n\n```json\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        assert found, path
        examples += found
    command = [sys.executable, "-c", RUN_BLOCKS, json.dumps([code for code, _ in examples])]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for line, (_, printed) in zip(finished.stdout.splitlines(), examples, strict=True):
        assert json.loads(line) == pytest.approx(json.loads(printed), abs=5e-4)
