"""From a run to a repository and to the Hub: complete, tried as a stranger would, in one commit, or not at all."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image
from prepared_data import prepared_dataset
from published_run import FLUIDS, ISIC, made_up_record, made_up_results, write_run
from raw_data import write_photograph, write_retouch_volume
from safetensors.torch import load_file, save_file
from small_model import ARCHITECTURE
from transformers.utils.logging import enable_progress_bar


pytest.importorskip("jinja2")

from modeling_resformer.commands import prepare_retouch, push_to_hub, train
from modeling_resformer.errors import BadInputError
from modeling_resformer.publishing import hub as hub_module
from modeling_resformer.publishing import publishing_run
from modeling_resformer.publishing import repository as repository_module
from modeling_resformer.publishing.card import Terms
from modeling_resformer.publishing.hub import Push, push_folder
from modeling_resformer.publishing.repository import make_repository


ROOT = Path(__file__).parents[1]
REPO = "org/resformer-lite-isic2017"
CODE = {
    "backbone_resformer.py",
    "configuration_resformer.py",
    "fusing_resformer.py",
    "handler.py",
    "image_processing_pil_resformer.py",
    "image_processing_resformer.py",
    "modeling_resformer.py",
    "pipeline_resformer.py",
}


def dry_run(run, output, *flags):
    return push_to_hub.main([str(run), "--repo-id", REPO, "--dry-run", "--output", str(output), *flags])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run") / "run")
    for name in ("report.png", "samples.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "per_case.csv").write_text("case_id\nISIC_0000051\n")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / "optimizer.pt").write_bytes(b"not for others")
    return folder


@pytest.fixture(scope="module")
def repository(run, tmp_path_factory):
    """A dry run, tried in a fresh process."""
    output = tmp_path_factory.mktemp("repository") / "repository"
    assert dry_run(run, output, "--dataset-id", "org/isic2017") == 0
    return output


@pytest.fixture
def untried(monkeypatch):
    """Leaves the fresh process out, which other tests start."""
    monkeypatch.setattr(repository_module, "check_reload", lambda folder, model: None)


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------


def test_a_dry_run_makes_everything_a_repository_needs(run, repository):
    images = {"report.png", "samples.png", "network.png", "examples/ISIC_0000051.jpg", "outlined/ISIC_0000051.jpg"}
    bundle = {"configs/metadata.json", "configs/inference.json"}
    texts = {"README.md", "config.json", "preprocessor_config.json", "requirements.txt", "results.json", "run.json"}
    assert files_below(repository) == CODE | images | texts | bundle | {"model.safetensors"}
    weights = load_file(repository / "model.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if tensor.is_floating_point()} == {torch.float32}
    config = json.loads((repository / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert config["auto_map"]["AutoModel"] == "modeling_resformer.ResFormerForMultiTask"
    assert list(config["custom_pipelines"]) == ["multitask-image-analysis"]
    assert config["resformer_version"]
    for name in ("results.json", "run.json"):
        assert json.loads((repository / name).read_text()) == json.loads((run / name).read_text())
    assert {path.stat().st_mode & 0o777 for path in repository.iterdir() if path.is_file()} == {0o644}


def test_the_widget_shows_the_contours_beside_each_example(repository):
    (entry,) = ModelCard.load(repository / "README.md").data.widget
    assert entry["output"] == {"url": "outlined/ISIC_0000051.jpg"}
    with Image.open(repository / "outlined/ISIC_0000051.jpg") as shown, Image.open(repository / entry["src"]) as given:
        assert shown.size == given.size


def test_scores_for_benchmark_datasets(run, tmp_path, untried, capsys):
    results = json.loads((run / "results.json").read_text())["model"]
    flags = ["--benchmark", "org/skin:lesion=jaccard", "--benchmark", "org/skin:melanoma=auc_melanoma"]
    assert dry_run(run, tmp_path / "a", *flags, "--tag", "v2") == 0
    stored = yaml.safe_load((tmp_path / "a/.eval_results/org--skin.yaml").read_text())
    first, second = parse_eval_result_entries(stored)
    assert (first.dataset_id, first.task_id, first.value) == ("org/skin", "lesion", results["jaccard"]["value"])
    assert (second.task_id, second.value) == ("melanoma", results["auc_melanoma"]["value"])
    assert first.source_url == f"https://huggingface.co/{REPO}/blob/v2/results.json"
    assert first.notes == "jaccard, split test, n=300"
    for flag, said in (
        ("org/skin=dice", "expected OWNER/DATASET:TASK=SCORE"),
        ("org/skin:lesion=dise", "results.json has no dise; it has accuracy"),
    ):
        assert dry_run(run, tmp_path / "b", "--benchmark", flag) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_requirements_are_those_of_the_package(repository):
    setup = (ROOT / "setup.py").read_text()
    for line in (repository / "requirements.txt").read_text().split():
        assert f'"{line}"' in setup


def test_a_made_repository_can_be_published_again_under_another_name(repository, tmp_path, untried):
    assert (
        push_to_hub.main([str(repository), "--repo-id", "me/mine", "--dry-run", "--output", str(tmp_path / "a")]) == 0
    )
    assert files_below(tmp_path / "a") == files_below(repository)
    assert 'model="me/mine"' in (tmp_path / "a" / "README.md").read_text()


def broken(run, tmp_path, change):
    """A copy of the run without its images, changed."""
    copy = tmp_path / "broken"
    copy.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors", "results.json", "run.json"):
        (copy / name).write_bytes((run / name).read_bytes())
    change(copy)
    return copy


def without(name):
    return lambda run: (run / name).unlink()


def with_text(name, text):
    return lambda run: (run / name).write_text(text)


def with_weight(value):
    def change(run):
        weights = load_file(run / "model.safetensors")
        weights["segmentation_head.classifier.bias"][0] = value
        save_file(weights, run / "model.safetensors", metadata={"format": "pt"})

    return change


def without_a_tensor(run):
    weights = load_file(run / "model.safetensors")
    del weights["segmentation_head.classifier.bias"]
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})


def with_thresholds(*thresholds):
    def change(run):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "classification_thresholds": thresholds or None}))

    return change


def measured_at(*thresholds):
    def change(run):
        results = json.loads((run / "results.json").read_text())
        results["thresholds"] = dict(zip(ISIC["classification_labels"], thresholds, strict=True))
        (run / "results.json").write_text(json.dumps(results))

    return change


def as_retouch(run):
    (run / "run.json").write_text(json.dumps(made_up_record(FLUIDS, source="retouch")))


def as_retouch_called_free(run):
    as_retouch(run)
    (run / "card.yaml").write_text("data_licence: CC0\nweights_licence: mit\n")


def as_ones_own(run):
    (run / "run.json").write_text(json.dumps(made_up_record(source="folder")))
    (run / "card.yaml").write_text("dataset_name: Breast ultrasound\ndata_licence: CC0\nweights_licence: mit\n")


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (without("results.json"), (), "without an evaluation is not published; make one with scripts/evaluate.py"),
        (with_text("results.json", '{"model": {}}'), (), "holds no score of the model"),
        (with_text("results.json", "{"), (), "is no readable JSON"),
        (
            with_thresholds(0.1, 0.5, 0.6),
            (),
            "at other thresholds (melanoma 0.5, nevus 0.5) than config.json decides by",
        ),
        (
            measured_at(0.5, 0.2, 0.5),
            (),
            "decides by (seborrheic_keratosis 0.5); measure again by scripts/evaluate.py",
        ),
        (with_weight(float("nan")), (), "1 of its tensors hold NaN or infinite values"),
        (with_weight(float("-inf")), (), "1 of its tensors hold NaN or infinite values"),
        (with_text("model.safetensors", "text"), (), "is no readable safetensors file"),
        (without_a_tensor, (), "lacks 1 tensors, segmentation_head.classifier.bias first"),
        (without("model.safetensors"), (), "model.safetensors is missing"),
        (with_text("pytorch_model.bin", "x"), (), "pickle files are not published"),
        (with_text("ema.pth", "x"), (), "pickle files are not published"),
        (as_retouch, ("--public",), "if your agreement with the organisers allows public weights"),
        (without("run.json"), ("--public",), "the weights come from data that nothing records"),
        (
            as_ones_own,
            ("--public",),
            "the weights were trained on Breast ultrasound; if those data allow public weights",
        ),
        (as_retouch_called_free, ("--public",), "if your agreement with the organisers allows public weights"),
        (as_retouch_called_free, (), "card.yaml: data_licence: that of RETOUCH stands fixed"),
        (with_text("card.yaml", "licence: mit"), (), "card.yaml: 'licence' is unknown; expected some of dataset_name"),
        (lambda run: None, ("--card", "nowhere.yaml"), "nowhere.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_what_must_not_be_published_is_refused_in_one_line(
    run, tmp_path, change, flags, message, capsys, monkeypatch, untried
):
    monkeypatch.setattr(publishing_run, "push_folder", None)  # nothing may be sent
    monkeypatch.setattr(publishing_run, "with_kept_card_text", lambda terms, *_: terms)
    assert push_to_hub.main([str(broken(run, tmp_path, change)), "--repo-id", REPO, "--tag", "v1", *flags]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_dry_run_refuses_results_at_other_thresholds_and_takes_them_at_the_models_own(
    run, tmp_path, capsys, untried
):
    changed = broken(run, tmp_path, with_thresholds(0.1, 0.2, 0.3))
    assert dry_run(changed, tmp_path / "out") == 1
    assert "was measured at other thresholds" in capsys.readouterr().err.splitlines()[-1]
    measured_at(0.1, 0.2, 0.3)(changed)
    assert dry_run(changed, tmp_path / "out") == 0


@pytest.mark.parametrize("repo_id", ["no-owner", "two//slashes", "a/b/c", "org/.."])
def test_an_impossible_name_is_refused(run, tmp_path, repo_id, capsys):
    assert push_to_hub.main([str(run), "--repo-id", repo_id, "--dry-run", "--output", str(tmp_path / "a")]) == 1
    assert f"--repo-id {repo_id}" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_of_somebody_else_is_left_alone(run, tmp_path, capsys, untried):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert dry_run(run, tmp_path / "mine") == 1
    assert "exists already" in capsys.readouterr().err
    assert dry_run(run, tmp_path / "mine", "--overwrite") == 1
    assert "is no Hub repository of this project" in capsys.readouterr().err
    assert files_below(tmp_path) == {"mine/letter.txt"}
    assert dry_run(run, tmp_path / "repository") == 0
    assert dry_run(run, tmp_path / "repository", "--overwrite") == 0


@pytest.mark.long
def test_a_folder_that_does_not_work_elsewhere_is_refused(run, tmp_path, capsys, monkeypatch):
    spoil = lambda folder: (folder / "handler.py").write_text("import modeling_resformer\n")  # noqa: E731
    monkeypatch.setattr(repository_module, "write_code", spoil)
    assert dry_run(run, tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "does not reload in a fresh process by trust_remote_code" in error
    assert "modeling_resformer" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "flags", "shown"),
    [
        ("retouch", (), False),
        ("retouch", ("--share-images",), False),
        ("x", (), False),
        ("x", ("--share-images",), True),
    ],
)
def test_images_that_are_not_free_stay_out(run, tmp_path, source, flags, shown, untried):
    changed = broken(run, tmp_path, with_text("run.json", json.dumps(made_up_record(source=source))))
    for name in ("report.png", "samples.png"):
        (changed / name).write_bytes((run / name).read_bytes())
    assert dry_run(changed, tmp_path / "out", *flags) == 0
    assert ({"report.png", "samples.png"} <= files_below(tmp_path / "out")) == shown
    assert not (tmp_path / "out" / "examples").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The push
# ---------------------------------------------------------------------------------------------------------------------


def test_a_push_is_one_private_tagged_commit(run, hub, untried):
    assert push_to_hub.main([str(run), "--repo-id", REPO, "--tag", "v1"]) == 0
    pushed = hub.repositories[REPO]
    assert pushed["private"] is True
    assert len(pushed["commits"]) == 1
    assert pushed["tags"] == {"v1"}
    assert set(pushed["files"]) >= CODE | {"README.md", "model.safetensors", "results.json"}
    paths = [path for _, path in hub.calls]
    assert paths.index("/api/validate-yaml") < paths.index("/api/repos/create")


def test_a_push_that_another_one_overtakes_is_refused(repository, tmp_path, hub, monkeypatch):
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: mit\n---\n\n# {name}\n")
    push_folder(tmp_path / "mine", Push(REPO))
    operations = hub_module.operations

    def overtaken(*arguments):
        monkeypatch.setattr(hub_module, "operations", operations)
        push_folder(tmp_path / "theirs", Push(REPO))
        return operations(*arguments)

    (tmp_path / "mine" / "more.txt").write_text("more")
    monkeypatch.setattr(hub_module, "operations", overtaken)
    with pytest.raises(BadInputError, match="was not pushed") as caught:
        push_folder(tmp_path / "mine", Push(REPO))
    assert "\n" not in str(caught.value)
    assert hub.repositories[REPO]["files"]["README.md"].endswith(b"# theirs\n")
    push_folder(tmp_path / "mine", Push(REPO))
    assert set(hub.repositories[REPO]["files"]) == {"README.md", "more.txt"}


def test_a_second_push_replaces_files_and_keeps_the_tag(repository, tmp_path, hub):
    push_folder(repository, Push(REPO, tag="v1"))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Another\n")
    push_folder(tmp_path, Push(REPO))
    pushed = hub.repositories[REPO]
    assert set(pushed["files"]) == {"README.md"}
    assert set(pushed["commits"][pushed["refs"]["v1"]]) == files_below(repository)
    with pytest.raises(BadInputError, match="has a tag v1 already"):
        push_folder(tmp_path, Push(REPO, tag="v1"))


def test_a_branch_leaves_main_alone(repository, tmp_path, hub):
    push_folder(repository, Push(REPO))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Another\n")
    push_folder(tmp_path, Push(REPO, revision="trial"))
    pushed = hub.repositories[REPO]
    assert set(pushed["files"]) == files_below(repository)
    assert set(pushed["commits"][pushed["refs"]["trial"]]) == {"README.md"}


def test_public_only_when_said_and_only_once_complete(tmp_path, hub):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Card\n")
    push_folder(tmp_path, Push(REPO, public=True))
    assert hub.repositories[REPO]["private"] is False
    paths = [path.split("/")[-2:] for _, path in hub.calls]
    assert paths.index(["commit", "main"]) < paths.index(["resformer-lite-isic2017", "settings"])
    with pytest.raises(BadInputError, match="is public already; say --public"):
        push_folder(tmp_path, Push(REPO))


def test_the_hub_refuses_a_card_before_anything_is_made(tmp_path, hub):
    (tmp_path / "README.md").write_text("---\nlicense: 5\n---\n\n# A number is no licence\n")
    with pytest.raises(BadInputError, match=r'the Hub refuses its header \("license" must be a string\)'):
        push_folder(tmp_path, Push(REPO))
    assert hub.repositories == {}


@pytest.mark.parametrize("moment", ["upload", "commit"])
def test_a_push_cut_off_in_the_middle_leaves_the_old_revision_whole(repository, tmp_path, hub, moment, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
    push_folder(repository, Push(REPO, tag="v1"))
    before = {name: bytes(data) for name, data in hub.repositories[REPO]["files"].items()}
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("README.md", "config.json"):
        (changed / name).write_bytes((repository / name).read_bytes() + b"\n")
    save_file({"weight": torch.ones(100_000)}, changed / "model.safetensors")
    hub.hang_up = moment
    with pytest.raises(BadInputError, match="is complete but was not pushed"):
        push_folder(changed, Push(REPO, tag="v2"))
    assert hub.repositories[REPO]["files"] == before
    assert hub.repositories[REPO]["tags"] == {"v1"}
    hub.hang_up = None
    push_folder(changed, Push(REPO, tag="v2"))
    assert set(hub.repositories[REPO]["files"]) == {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize(
    ("call", "there", "message"),
    [
        (
            "POST /api/models/.*/tag/.*",
            set(),
            r"has the commit http\S+2, but still lacks the tag v1 and its being public \(",
        ),
        ("PUT /api/models/.*/settings", {"v1"}, r"has the commit http\S+2, but still lacks its being public \("),
    ],
)
def test_what_comes_after_the_commit_is_named_and_finished_by_the_same_call(
    repository, hub, call, there, message, lost
):
    push = Push(REPO, tag="v1", public=True)
    hub.refuse, hub.lost = call, lost
    with pytest.raises(BadInputError, match=f"^{REPO}: {message}.*give the same command again"):
        push_folder(repository, push)
    pushed = hub.repositories[REPO]
    assert set(pushed["files"]) == files_below(repository)
    if not lost:
        assert (pushed.get("tags", set()), pushed["private"]) == (there, True)
    hub.refuse = None
    assert push_folder(repository, push).endswith("/commit/" + pushed["refs"]["main"])
    assert (pushed["tags"], pushed["private"], len(pushed["commits"])) == ({"v1"}, False, 1)
    assert pushed["refs"]["v1"] == pushed["refs"]["main"]
    push_folder(repository, push)  # and a third time nothing is left to do
    assert len(pushed["commits"]) == 1


def test_a_repository_that_was_only_made_is_filled_by_the_same_call(tmp_path, hub):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Card\n")
    hub.refuse = "POST /api/models/.*/commit/.*"
    with pytest.raises(BadInputError, match=r"is complete but was not pushed.*give the same command again"):
        push_folder(tmp_path, Push(REPO, revision="trial", tag="v1"))
    hub.refuse = None
    push_folder(tmp_path, Push(REPO, revision="trial", tag="v1"))
    assert hub.repositories[REPO]["refs"]["trial"] == hub.repositories[REPO]["refs"]["v1"]


@pytest.mark.parametrize("call", ["POST /api/spaces/.*/commit/.*", "PUT /api/spaces/.*/settings"])
def test_a_space_that_failed_is_finished_by_the_same_command(run, hub, untried, capsys, call):
    flags = ["--space-id", "org/space", "--with-space", "--tag", "v1", "--public"]
    hub.refuse = call
    assert push_to_hub.main([str(run), "--repo-id", REPO, *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(f"error: {REPO}: is pushed, but its Space is not complete: ")
    assert (hub.repositories[REPO]["tags"], hub.repositories[REPO]["private"]) == ({"v1"}, False)
    assert hub.repositories["org/space"]["private"] is True
    hub.refuse = None
    assert push_to_hub.main([str(run), "--repo-id", REPO, *flags]) == 0
    assert "app.py" in hub.repositories["org/space"]["files"]
    assert hub.repositories["org/space"]["private"] is False
    assert len(hub.repositories[REPO]["commits"]) == len(hub.repositories["org/space"]["commits"]) == 1


def test_a_tag_of_other_contents_is_never_moved(repository, tmp_path, hub):
    push_folder(repository, Push(REPO, tag="v1"))
    changed = tmp_path / "changed"
    shutil.copytree(repository, changed)
    text = (changed / "README.md").read_text()
    (changed / "README.md").write_text(
        text.replace("Not a medical device", "Now a medical device")
    )  # as long as before
    with pytest.raises(BadInputError, match="has a tag v1 already"):
        push_folder(changed, Push(REPO, tag="v1"))
    assert len(hub.repositories[REPO]["commits"]) == 1


# ---------------------------------------------------------------------------------------------------------------------
# The owner's text
# ---------------------------------------------------------------------------------------------------------------------

OWN = "dataset_name: Breast ultrasound\ncontact: ask@example.org\n"


def test_the_owners_text_travels_with_the_repository_and_outlives_later_pushes(run, tmp_path, hub, untried):
    own = broken(run, tmp_path, with_text("run.json", json.dumps(made_up_record(source="folder"))))
    (tmp_path / "mine.yaml").write_text(OWN)
    assert push_to_hub.main([str(own), "--repo-id", REPO, "--card", str(tmp_path / "mine.yaml")]) == 0
    pushed = hub.repositories[REPO]
    assert pushed["files"]["card.yaml"].decode() == OWN
    assert b"Trained on Breast ultrasound.\n" in pushed["files"]["README.md"]
    # A later run, which brings no text: neither the file nor its words are lost.
    (own / "results.json").write_text(json.dumps({**made_up_results(), "images": 299}))
    assert push_to_hub.main([str(own), "--repo-id", REPO, "--tag", "v2"]) == 0
    assert len(pushed["commits"]) == 2
    assert pushed["files"]["card.yaml"].decode() == OWN
    assert b"Trained on Breast ultrasound.\n" in pushed["files"]["README.md"]
    # A made repository brings its own along, and the run's own wins over the Hub's.
    (own / "card.yaml").write_text(OWN.replace("Breast", "Chest"))
    assert push_to_hub.main([str(own), "--repo-id", REPO, "--dry-run", "--output", str(tmp_path / "made")]) == 0
    assert push_to_hub.main([str(tmp_path / "made"), "--repo-id", REPO]) == 0
    assert b"Trained on Chest ultrasound.\n" in pushed["files"]["README.md"]


def test_data_nobody_knows_ask_for_the_owners_text(run, tmp_path, untried, caplog):
    own = broken(run, tmp_path, with_text("run.json", json.dumps(made_up_record(source="folder"))))
    assert dry_run(own, tmp_path / "a") == 0
    assert "tell what they are in a card.yaml, as hub_cards/card.yaml shows" in caplog.text
    caplog.clear()
    (own / "card.yaml").write_text(OWN)
    assert dry_run(own, tmp_path / "b") == 0
    assert "card.yaml" not in caplog.text


def test_a_licence_that_nobody_named_and_made_up_data_of_a_gated_layout(run, tmp_path, untried, caplog, capfd):
    enable_progress_bar()
    own = broken(run, tmp_path, with_text("run.json", json.dumps(made_up_record(source="retouch"))))
    (own / "card.yaml").write_text("data_licence: CC0 1.0\n")
    assert dry_run(own, tmp_path / "a", "--synthetic") == 0
    (line,) = [record.getMessage() for record in caplog.records if "weights" in record.getMessage()]
    assert "license: other" in line and "ask-the-owner" in line and "--license or weights_licence" in line
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| **Data** | CC0 1.0 |" in card and "gated" not in card
    assert "Loading weights" not in capfd.readouterr().err
    caplog.clear()
    assert dry_run(own, tmp_path / "b", "--synthetic", "--license", "mit") == 0
    assert "weights_licence" not in caplog.text
    assert dry_run(own, tmp_path / "c", "--synthetic", "--public") == 1  # the record decides what may be public


def test_training_pushes_once_at_the_end(tmp_path, hub, untried, capsys):
    prepared_dataset(train=4, validation=3, test=3).save_to_disk(str(tmp_path / "dataset"))
    recipe = {"config": ARCHITECTURE, "image_size": 32, "use_cpu": True}
    recipe |= {"num_train_epochs": 2, "bootstrap_samples": 0, "disable_tqdm": True, "report_to": "none"}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    flags = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "run"), "--push_to_hub"]
    assert train.main([str(tmp_path / "recipe.json"), *flags]) == 1  # before anything is trained
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "card.yaml").write_text("modality: 5")
    assert train.main([str(tmp_path / "recipe.json"), *flags, "--hub_model_id", "org/trained"]) == 1
    assert "card.yaml: modality is a int; expected a text" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["card.yaml"]
    (tmp_path / "run" / "card.yaml").write_text("modality: made-up blobs")
    assert train.main([str(tmp_path / "recipe.json"), *flags, "--hub_model_id", "org/trained"]) == 0
    pushed = hub.repositories["org/trained"]
    assert pushed["private"] is True
    assert len(pushed["commits"]) == 1
    assert b"Not a medical device" in pushed["files"]["README.md"]
    assert b"(made-up blobs)" in pushed["files"]["README.md"]
    assert pushed["files"]["card.yaml"] == b"modality: made-up blobs"
    assert not any(name.endswith(".bin") or name.startswith("checkpoint") for name in pushed["files"])


# ---------------------------------------------------------------------------------------------------------------------
# The pull, in fresh processes
# ---------------------------------------------------------------------------------------------------------------------


def fresh_process(code, hub, home, *flags):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_x"}
    environment |= {"HF_HOME": str(home / "home"), "HF_HUB_OFFLINE": "0"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *flags, "-c", code]
    result = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


LOADS = f"""
import torch, modeling_resformer
from safetensors.torch import load_file
from transformers import AutoBackbone, AutoModel
pixels = torch.zeros(1, 3, 48, 64)
model = AutoModel.from_pretrained({REPO!r}, revision="v1").eval()
assert type(model) is modeling_resformer.ResFormerForMultiTask
backbone = AutoBackbone.from_pretrained({REPO!r}, out_indices=[4]).eval()
assert type(backbone) is modeling_resformer.ResFormerBackbone
with torch.no_grad():
    print(model(pixels).classification_logits.tolist(), backbone(pixels).feature_maps[0].shape[1])
try:
    AutoModel.from_pretrained({REPO!r}, revision="v9")
except OSError as error:
    print("v9" in str(error))
"""


@pytest.mark.slow
def test_a_pull_by_name_with_the_package_imported(repository, tmp_path, hub):
    push_folder(repository, Push(REPO, tag="v1"))
    from modeling_resformer import ResFormerForMultiTask

    with torch.no_grad():
        expected = ResFormerForMultiTask.from_pretrained(repository).eval()(torch.zeros(1, 3, 48, 64))
    first, last = fresh_process(LOADS, hub, tmp_path).splitlines()
    logits, channels = first.rsplit(" ", 1)
    assert json.loads(logits)[0] == pytest.approx(expected.classification_logits[0].tolist(), abs=1e-5)
    assert (int(channels), last) == (32, "True")


STRANGER = f"""
import sys
sys.modules["modeling_resformer"] = None
import huggingface_hub, torch, transformers
folder = huggingface_hub.snapshot_download({REPO!r}, revision="v1")
print(folder.split("/")[-1])
backbone = transformers.AutoBackbone.from_pretrained({REPO!r}, trust_remote_code=True)
assert type(backbone).__name__ == "ResFormerBackbone"
"""


@pytest.mark.long
def test_a_stranger_runs_the_code_of_the_card_against_the_hub(repository, tmp_path, hub):
    push_folder(repository, Push(REPO, tag="v1"))
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    blocks = [block for block in blocks if "import modeling_resformer" not in block]
    assert len(blocks) == 3
    write_photograph(tmp_path / "photo.jpg", size=(83, 61))
    commit, *printed = fresh_process(STRANGER + "\n".join(blocks), hub, tmp_path, "-P").splitlines()
    assert commit == hub.repositories[REPO]["refs"]["v1"]
    text = "\n".join(printed)
    assert text.count("torch.Size([61, 83])") == 2
    for name in ISIC["classification_labels"]:
        assert text.count(name) >= 2


REVISIONS = f"""
import sys
sys.modules["modeling_resformer"] = None
import transformers
from transformers.models.auto.image_processing_auto import AutoImageProcessor
trust = {{"trust_remote_code": True}}
mark = lambda thing: getattr(type(thing), "mark", 1)
for revision in ("v1", "v2"):
    pipe = transformers.pipeline(model={REPO!r}, revision=revision, device="cpu", **trust)
    stock = transformers.pipeline("image-classification", {REPO!r}, revision=revision, device="cpu", **trust)
    processor = AutoImageProcessor.from_pretrained({REPO!r}, revision=revision, **trust)
    print(mark(pipe), mark(pipe.model), mark(pipe.image_processor), mark(stock.model), mark(processor))
model = transformers.AutoModel.from_pretrained({REPO!r}, revision="v1", code_revision="v2", **trust)
print(mark(model))
"""


@pytest.mark.slow
def test_a_revision_pins_the_code_too_so_that_examples_need_no_code_revision(repository, tmp_path, hub):
    push_folder(repository, Push(REPO, tag="v1"))
    changed = tmp_path / "changed"
    shutil.copytree(repository, changed)
    for name, class_name in (
        ("modeling_resformer", "ResFormerPreTrainedModel"),
        ("pipeline_resformer", "ResFormerPipeline"),
        ("image_processing_pil_resformer", "ResFormerImageProcessing"),
    ):
        with open(changed / f"{name}.py", "a") as file:
            file.write(f"\n{class_name}.mark = 2\n")
    push_folder(changed, Push(REPO, tag="v2"))
    printed = fresh_process(REVISIONS, hub, tmp_path, "-P").splitlines()
    assert printed[-3:] == ["1 1 1 1 1", "2 2 2 2 2", "2"]


def test_a_space_goes_up_beside_its_model(run, hub, untried):
    flags = ["--space-id", "org/space", "--with-space", "--tag", "v1"]
    assert push_to_hub.main([str(run), "--repo-id", REPO, *flags]) == 0
    pushed = hub.repositories["org/space"]
    assert (pushed["type"], pushed["sdk"], pushed["private"]) == ("space", "gradio", True)
    assert {"README.md", "app.py", "requirements.txt", "examples/ISIC_0000051.jpg"} <= set(pushed["files"])
    assert json.loads(pushed["files"]["settings.json"]) == {"model_id": REPO, "revision": "v1"}
    assert b"https://huggingface.co/spaces/org/space" in hub.repositories[REPO]["files"]["README.md"]


def test_a_page_for_the_browser_goes_up_beside_its_model(run, hub, untried, monkeypatch):
    """Its export and runtime have tests of their own, test_export.py and test_web_page.py."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from modeling_resformer.publishing import web_page

    def export(pipe, path):
        assert not pipe.model.training
        model = onnx.helper.make_model(onnx.helper.make_graph([], "none", [], []))
        onnx.helper.set_model_props(model, {"weights": '"0"'})
        onnx.save(model, path)

    monkeypatch.setattr(web_page, "export", export)
    monkeypatch.setattr(web_page, "add_runtime_files", lambda folder, package, names: folder.mkdir())
    assert push_to_hub.main([str(run), "--repo-id", REPO, "--web-id", "org/page", "--with-web"]) == 0
    pushed = hub.repositories["org/page"]
    assert (pushed["type"], pushed["sdk"], pushed["private"]) == ("space", "static", True)
    assert {"README.md", "index.html", "model.onnx", "examples/ISIC_0000051.jpg"} <= set(pushed["files"])
    assert json.loads(pushed["files"]["model.json"])["name"] == REPO
    assert b"https://huggingface.co/spaces/org/page" in hub.repositories[REPO]["files"]["README.md"]


def test_a_public_page_of_gated_weights_is_refused_before_anything_is_sent(run, tmp_path, hub, capsys):
    gated = tmp_path / "gated"
    shutil.copytree(run, gated)
    record = json.loads((gated / "run.json").read_text())
    record["dataset"]["source"] = "retouch"
    (gated / "run.json").write_text(json.dumps(record))
    flags = ["--web-id", "org/page", "--with-web", "--public", "--data-allow-sharing"]
    assert push_to_hub.main([str(gated), "--repo-id", REPO, *flags]) == 1
    assert "these are gated; leave out --with-web" in capsys.readouterr().err
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("flags", "revision"),
    [((), None), (("--revision", "trial"), "trial"), (("--revision", "trial", "--tag", "v1"), "v1")],
)
def test_card_and_space_load_the_revision_that_was_pushed(run, tmp_path, untried, flags, revision):
    flags = [*flags, "--space-id", "org/space", "--with-space"]
    assert dry_run(run, tmp_path / "a", *flags) == 0
    assert json.loads((tmp_path / "a-space" / "settings.json").read_text())["revision"] == revision
    assert f'revision="{revision or "main"}"' in (tmp_path / "a" / "README.md").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# RETOUCH, from made-up volumes
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vendor", "first", "dtype"), [("Cirrus", 1, "uint8"), ("Spectralis", 25, "uint16"), ("Topcon", 49, "uint8")]
)
def test_a_repository_per_vendor_marked_synthetic(tmp_path, hub, vendor, first, dtype):
    for number in range(3):
        write_retouch_volume(tmp_path / "raw" / vendor / f"TRAIN{first + number:03d}", dtype=dtype, seed=number)
    manifest = "case_id,split\n" + "".join(
        f"TRAIN{first + number:03d},{split}\n" for number, split in enumerate(("train", "validation", "test"))
    )
    (tmp_path / "splits.csv").write_text(manifest)
    flags = ["--source", tmp_path / "raw", "--output", tmp_path / "data", "--vendor", vendor.lower()]
    assert prepare_retouch.main([str(flag) for flag in [*flags, "--splits", tmp_path / "splits.csv"]]) == 0
    recipe = {"config": ARCHITECTURE, "image_size": 32, "use_cpu": True}
    recipe |= {"num_train_epochs": 1, "bootstrap_samples": 20, "disable_tqdm": True, "report_to": "none"}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    run = tmp_path / "run"
    assert (
        train.main([str(tmp_path / "recipe.json"), "--dataset", str(tmp_path / "data"), "--output_dir", str(run)]) == 0
    )
    folder = make_repository(run, Terms(f"org/retouch-{vendor.lower()}", synthetic=True), tmp_path / "repository")
    card = (folder / "README.md").read_text()
    assert "> **SYNTHETIC.**" in card
    assert "model-index" not in card
    assert f"`{vendor.lower()}`" in card
    assert "0 background, 1 IRF, 2 SRF, 3 PED" in card
    assert not {"report.png", "samples.png"} & files_below(folder)
    push_folder(folder, Push(f"org/retouch-{vendor.lower()}"))
    assert hub.repositories[f"org/retouch-{vendor.lower()}"]["private"] is True
