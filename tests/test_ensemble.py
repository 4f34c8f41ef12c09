"""Several models that answer as one: by hand, as one model given twice, and what does not fit together."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_tables import rows_of
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.errors import BadInputError
from modeling_resformer.prediction.predictor import Predictor, ensemble_members, load_pipelines


CPU = torch.device("cpu")


def save(folder, seed, labels=("a", "b"), side=32, thresholds=None):
    torch.manual_seed(seed)
    config = tiny_config(
        id2label={0: "background", 1: "lesion"},
        classification_labels=list(labels),
        classification_thresholds=thresholds,
    )
    model = ResFormerForMultiTask(config)
    with torch.no_grad():  # far enough from a half to tell a mean of probabilities from one of logits
        model.segmentation_head.classifier.weight *= 20
        model.classification_head.classifier.weight *= 50
    model.save_pretrained(folder)
    ResFormerImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    return [save(tmp_path_factory.mktemp(f"member_{seed}"), seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    values = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photograph") / "photo.png"
    Image.fromarray(values).resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return str(path)


@pytest.mark.parametrize("tta", [False, "both"])
def test_probabilities_are_means_over_members_and_flips(members, photograph, tta):
    first, *others = load_pipelines(members, None, CPU)
    predictor = Predictor(first, tta=tta, others=tuple(others))
    prepared = predictor.prepare(photograph)
    (answer,) = predictor.forward([prepared])
    masks, classes = [], []
    for member in members:
        model = ResFormerForMultiTask.from_pretrained(member).eval()
        for axes in ((), (-1,), (-2,), (-2, -1)) if tta else ((),):
            with torch.no_grad():
                output = model(prepared["pixel_values"].flip(axes))
            masks.append(output.segmentation_logits.softmax(dim=1).flip(axes))
            classes.append(output.classification_logits.sigmoid())
    # The fused form of the models answers, so that last digits differ.
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(answer["segmentation_logits"].softmax(dim=1), torch.stack(masks).mean(dim=0), **close)
    torch.testing.assert_close(answer["classification_logits"].sigmoid(), torch.stack(classes).mean(dim=0), **close)
    assert torch.stack(classes).std(dim=0).max() > 0.01


def test_one_model_given_twice_answers_as_it_does_alone(predict, members, photograph, tmp_path, capsys):
    alone, twice = tmp_path / "alone", tmp_path / "twice"
    assert predict(["--model", members[0], photograph, "--output", str(alone), "--no-overlays"]) == 0
    assert "ensemble" not in capsys.readouterr().out
    flags = ["--model", members[0], "--model", members[0], photograph, "--output", str(twice), "--no-overlays"]
    assert predict(flags) == 0
    assert "ensemble of 2 models" in capsys.readouterr().out
    (one,), (both,) = rows_of(alone), rows_of(twice)
    assert both.pop("models") == "2" and "models" not in one
    for name, value in one.items():
        assert both[name] == value or float(both[name]) == pytest.approx(float(value), rel=1e-5)
    with Image.open(alone / one["mask"]) as mask, Image.open(twice / both["mask"]) as other:
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(other))
    settings = json.loads((twice / "settings.json").read_text())
    assert settings["ensemble"] == 2 and len(settings["weights"]) == 2


def test_other_members_are_other_settings_when_a_run_goes_on(predict, members, photograph, tmp_path, caplog):
    flags = [photograph, "--output", str(tmp_path / "out"), "--no-overlays"]
    assert predict(["--model", members[0], "--model", members[1], *flags]) == 0
    assert predict(["--model", members[0], "--model", members[1], *flags]) == 0
    assert predict(["--model", members[0], "--model", members[2], *flags]) == 1
    assert "predictions made otherwise (weights" in caplog.text
    assert predict(["--model", members[0], *flags]) == 1
    assert "ensemble 2 there, null now" in caplog.text


def test_a_folder_of_folds_means_its_models(members, tmp_path):
    (tmp_path / "folds.json").write_text(json.dumps({"number": 2}))
    for fold, member in enumerate(members[:2]):
        (tmp_path / f"fold-{fold}").symlink_to(member)
        with pytest.raises(BadInputError, match=r"not finished; run scripts/train_folds\.py again"):
            ensemble_members(str(tmp_path))
        (Path(member) / "results.json").write_text("{}")
    assert ensemble_members(str(tmp_path)) == [str(tmp_path / "fold-0"), str(tmp_path / "fold-1")]
    assert len(load_pipelines([str(tmp_path), members[2]], None, CPU)) == 3
    (tmp_path / "folds.json").write_text("{")
    with pytest.raises(BadInputError, match=r"folds\.json: cannot be read"):
        ensemble_members(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ("a", "c")}, "differs from .* in image-level classes; expected members"),
        ({"side": 48}, "in the image processor's size; expected members"),
    ],
)
def test_members_that_do_not_fit_are_refused(members, tmp_path, change, said):
    other = save(tmp_path / "other", 4, **change)
    with pytest.raises(BadInputError, match=said):
        load_pipelines([members[0], other], None, CPU)
    with pytest.raises(BadInputError, match="--revision v1"):
        load_pipelines(members, "v1", CPU)


def test_thresholds_are_the_means_of_the_members(members, tmp_path):
    chosen = save(tmp_path / "chosen", 4, thresholds=[0.2, 0.8])
    first, other = load_pipelines([members[0], chosen], None, CPU)
    assert Predictor(first, others=(other,)).thresholds == pytest.approx([0.35, 0.65])
    assert Predictor(first, threshold=0.1, others=(other,)).thresholds == [0.1, 0.1]
    assert Predictor(*load_pipelines(members[:1], None, CPU)).thresholds == [0.5, 0.5]
