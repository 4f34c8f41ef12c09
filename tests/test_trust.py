"""How far to trust an answer: distance and confidence against scikit-learn and by hand, and alike wherever a model answers."""

import json

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.linear_model
import torch
from PIL import Image
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import tiny_config

from modeling_resformer import ResFormerForImageClassification, ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands import evaluate
from modeling_resformer.evaluation.row_statistics import row_statistics
from modeling_resformer.handler import EndpointHandler
from modeling_resformer.heads import task_of
from modeling_resformer.metrics.familiarity import fit_features
from modeling_resformer.metrics.risk_coverage import area_under_risk, errors_refused, risk_coverage
from modeling_resformer.metrics.scaling import fit_logistic
from modeling_resformer.modeling_resformer import ResFormerFamiliarity, label_certainty, mask_certainty
from modeling_resformer.pipeline_resformer import ResFormerPipeline
from modeling_resformer.prediction.predictor import Predictor, load_pipelines


FITTED = {
    "familiarity_components": 3,
    "distance_limit": 0.0,
    "confidence_weights": [0.1, 0.2, 0.3, -0.4],
    "confidence_limit": 1.0,
}


def fitted_model(**settings) -> ResFormerForMultiTask:
    torch.manual_seed(0)
    model = ResFormerForMultiTask(tiny_config(**{**FITTED, **settings})).eval()
    for buffer in (model.familiarity.mean, model.familiarity.variances, model.familiarity.noise):
        buffer.uniform_(0.5, 1.5)
    return model


def drawn_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def test_the_distance_is_that_of_scikit_learns_probabilistic_pca():
    rng = np.random.default_rng(0)
    config = tiny_config(familiarity_components=4)
    size = sum(config.hidden_sizes[-2:])
    features = rng.normal(size=(200, size)) @ np.diag(np.linspace(3, 0.2, size)) + rng.normal(size=size)
    found = fit_features(features, most=4)
    module = ResFormerFamiliarity(config)
    for name in ("mean", "components", "variances"):
        getattr(module, name).copy_(torch.from_numpy(getattr(found, name)))
    module.noise.fill_(found.noise)
    new = rng.normal(size=(5, size)) * 2
    pca = sklearn.decomposition.PCA(4).fit(features)
    away = new - pca.mean_
    expected = np.einsum("nc,cd,nd->n", away, pca.get_precision(), away) / size
    assert module(torch.from_numpy(new)).numpy() == pytest.approx(expected, rel=1e-4)


def test_features_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="do not vary"):
        fit_features(np.ones((10, 4)))


def test_rows_that_came_twice_leave_a_distance_that_float32_can_carry():
    features = np.repeat(np.random.default_rng(0).normal(size=(6, 56)), 5, axis=0)
    found = fit_features(features)
    assert found.noise >= 1e-7 * features.var(axis=0).mean()
    module = ResFormerFamiliarity(tiny_config(familiarity_components=28))
    for name in ("mean", "components", "variances"):
        getattr(module, name).copy_(torch.from_numpy(getattr(found, name)))
    module.noise.fill_(found.noise)
    assert module(torch.from_numpy(features)).mean().item() < 2


def test_the_weights_are_those_of_a_logistic_regression():
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(300, 3))
    right = (rng.random(300) < 1 / (1 + np.exp(-(0.5 + signals @ [1.0, -2.0, 0.0])))).astype(float)
    regression = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10).fit(signals, right)
    expected = [regression.intercept_.item(), *regression.coef_[0]]
    assert fit_logistic(signals, right) == pytest.approx(expected, abs=1e-2)


def test_certainties_by_hand():
    """Four pixels: two surely lesion (p = 1), two half so but background: 2 * 2 / (3 + 2), and 0.004 of smoothing on both."""
    logits = torch.tensor([[-50.0, -50.0, 1e-4, 1e-4], [50.0, 50.0, 0.0, 0.0]]).reshape(1, 2, 2, 2)
    assert mask_certainty(logits).item() == pytest.approx((4 + 0.004) / (5 + 0.004), abs=1e-4)
    config = tiny_config(classification_labels=["a", "b"], classification_thresholds=[0.5, 0.1])
    scores = torch.tensor([[0.8, 0.3]])
    assert label_certainty(scores.logit(), config).item() == pytest.approx(0.8 * 0.3)
    exclusive = tiny_config(classification_labels=["a", "b"], classification_type="exclusive")
    assert label_certainty(scores.log(), exclusive).item() == pytest.approx(0.8 / 1.1)


def test_an_empty_mask_of_which_the_model_is_sure_is_certain():
    sure = torch.stack([torch.full((8, 8), 20.0), torch.full((8, 8), -20.0)])[None]
    assert mask_certainty(sure).item() == pytest.approx(1.0, abs=1e-3)


def test_refusing_by_hand():
    confidence, errors = np.array([0.9, 0.1, 0.5, 0.8]), np.array([0.0, 1.0, 1.0, 0.0])
    coverage, risk = risk_coverage(confidence, errors)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert area_under_risk(confidence, errors) == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert errors_refused(confidence, errors, 0.25) == 0.5


def test_a_signal_that_says_nothing_refuses_its_share():
    errors = np.random.default_rng(0).random(100)
    assert errors_refused(np.ones(100), errors, 0.1) == pytest.approx(0.1)


def test_confidence_is_the_logistic_of_its_signals():
    model = fitted_model()
    output = model(torch.rand(2, 3, 64, 64))
    masks, labels = (
        mask_certainty(output.segmentation_logits),
        label_certainty(output.classification_logits, model.config),
    )
    odds = 0.1 + 0.2 * masks.logit() + 0.3 * labels.logit() - 0.4 * output.distance.log()
    torch.testing.assert_close(output.confidence, odds.sigmoid())


def test_everything_answers_alike_after_saving(tmp_path):
    fitted_model().save_pretrained(tmp_path)
    ResFormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    model, processor = (
        ResFormerForMultiTask.from_pretrained(tmp_path),
        ResFormerImageProcessor.from_pretrained(tmp_path),
    )
    expected = fitted_model()(processor(drawn_image(), return_tensors="pt")["pixel_values"])
    answer = ResFormerPipeline(model=model, image_processor=processor)(drawn_image())
    handled = EndpointHandler(str(tmp_path))({"inputs": drawn_image(), "parameters": {"task": "both"}})
    for told in (answer, handled):
        assert told["distance"] == pytest.approx(expected.distance.item(), rel=1e-4)
        assert told["confidence"] == pytest.approx(expected.confidence.item(), rel=1e-4)
        assert told["flags"] == ["unlike_training_images", "low_confidence"]
        assert told["doubt"] == "This image is unlike those the model was trained on: do not rely on what it answers."


def test_the_doubt_of_low_confidence_names_the_share():
    config = tiny_config(**{**FITTED, "distance_limit": None})
    told = config.trust(2.0, 0.37)
    assert told["flags"] == ["low_confidence"]
    assert (
        told["doubt"] == "The model is unsure: of answers like this one about 37 % are right in both mask and labels."
    )
    assert config.trust(2.0, 1.0) == {"distance": 2.0, "confidence": 1.0, "flags": [], "doubt": ""}


def test_views_and_batches_tell_it_too():
    model, processor = fitted_model(), ResFormerImageProcessor(size={"height": 64, "width": 64})
    pipe = ResFormerPipeline(model=model, image_processor=processor)
    alone, mirrored = pipe(drawn_image()), pipe(drawn_image().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    both = pipe(drawn_image(), tta="horizontal")
    assert both["distance"] == pytest.approx((alone["distance"] + mirrored["distance"]) / 2, rel=1e-3)
    batch = pipe([drawn_image()] * 3, batch_size=3)
    assert [one["confidence"] for one in batch] == pytest.approx([alone["confidence"]] * 3, rel=1e-4)


def test_an_ensemble_tells_what_all_its_members_do(tmp_path):
    """Means of distance and limit; nothing where a member has none."""
    members = [tmp_path / name for name in "abc"]
    fitted_model(distance_limit=1.0).save_pretrained(members[0])
    fitted_model(distance_limit=3.0, confidence_weights=None, confidence_limit=None).save_pretrained(members[1])
    ResFormerForMultiTask(tiny_config()).save_pretrained(members[2])
    for member in members:
        ResFormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(member)
    told = []
    for names in (members[:1], members[1:2], members[:2], [members[0], members[2]], [members[2], members[0]]):
        first, *others = load_pipelines([str(name) for name in names], None, torch.device("cpu"))
        predictor = Predictor(first, others=tuple(others))
        (logits,) = predictor.forward([predictor.prepare(drawn_image())])
        answer = predictor.answer(logits)
        told.append(answer)
        assert predictor.classes.trust == tuple(name for name in ("distance", "confidence") if name in answer)
    one, other, both, *mixed = told
    assert both["distance"] == pytest.approx((one["distance"] + other["distance"]) / 2)
    assert "confidence" in one and "confidence" not in both
    assert both["flags"] == (["unlike_training_images"] if both["distance"] > 2.0 else [])
    assert not [answer for answer in mixed if "distance" in answer or "flags" in answer]


def test_autocast_does_not_blur_the_distance():
    """Features far along the first component, whose share would else be taken from their square in half precision."""
    module = fitted_model().familiarity
    module.mean.zero_()
    module.components.copy_(torch.eye(*module.components.shape))
    module.variances.fill_(1e4)
    module.noise.fill_(1e-2)
    away = torch.full((1, len(module.mean)), 0.01)
    away[0, :3] = 100.3
    by_hand = (3 * 100.3**2 / 1e4 + (len(module.mean) - 3) * 1e-4 / 1e-2) / len(module.mean)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(away).item() == pytest.approx(by_hand, rel=0.1)


def test_the_command_fits_the_distance_to_the_training_split_and_fits_it_again_alike(tmp_path):
    """The buffers against scikit-learn's PCA and the limit by hand, of features that are read from the network by themselves."""
    splits, checkpoint = prepared_dataset(train=12, validation=9, test=4), tmp_path / "checkpoint"
    splits.save_to_disk(str(tmp_path / "dataset"))
    config = tiny_config(id2label=dict(enumerate(MASK_CLASSES)), classification_labels=CLASS_LABELS)
    ResFormerForMultiTask(config).save_pretrained(checkpoint)
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(checkpoint)
    flags = ["--model", str(checkpoint), "--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "out")]
    flags += ["--use_cpu", "--bootstrap_samples", "0", "--batch_size", "5", "--fit_confidence"]
    configs = []
    for _ in range(2):
        assert evaluate.main(flags) == 0
        configs.append(json.loads((checkpoint / "config.json").read_text()))
    first, again = (config.pop("distance_limit") for config in configs)
    assert again == pytest.approx(first, rel=1e-4)
    assert configs[1] == configs[0]
    model, processor = (
        ResFormerForMultiTask.from_pretrained(checkpoint).eval(),
        ResFormerImageProcessor.from_pretrained(checkpoint),
    )
    features = {}
    for split in ("train", "validation"):
        pixels = processor([row["image"] for row in splits[split]], return_tensors="pt")["pixel_values"]
        maps = model(pixels, output_hidden_states=True).hidden_states[-2:]
        features[split] = torch.cat([one.mean((2, 3)) for one in maps], dim=1).detach().double().numpy()
    pca = sklearn.decomposition.PCA(10, svd_solver="full").fit(features["train"])
    assert model.familiarity.variances.numpy() == pytest.approx(pca.explained_variance_, rel=1e-3)
    # Fewer rows than features, of which scikit-learn would take the rest of the variance for that of as many directions.
    away, size, total = features["validation"] - pca.mean_, len(pca.mean_), np.trace(np.cov(features["train"].T))
    noise = (total - pca.explained_variance_.sum()) / (size - 10)
    spread = (pca.components_.T * (pca.explained_variance_ - noise)) @ pca.components_ + noise * np.eye(size)
    distances = np.einsum("nc,cd,nd->n", away, np.linalg.inv(spread), away) / size
    assert model.config.distance_limit == pytest.approx(np.quantile(distances, 0.98), rel=1e-2)


def test_pixels_fall_into_bins_as_in_numpy():
    model = fitted_model().eval()
    labels = torch.randint(0, 4, (1, 64, 64), generator=torch.Generator().manual_seed(0))
    labels[:, :5] = 255
    batch = {"row_index": torch.zeros(1), "case_index": torch.zeros(1), "mask_labels": labels}
    batch |= {"stored_masks": labels, "class_labels": torch.zeros(1, 1)}
    with torch.no_grad():
        output = model(torch.rand(1, 3, 64, 64))
    gaps = row_statistics(output, batch, task_of(model), ResFormerImageProcessor(), model.config)["mask_gaps"]
    known = (labels != 255).numpy()
    for k in range(1, gaps.shape[1] + 1):
        probabilities = output.segmentation_logits.softmax(dim=1)[:, k].numpy()[known]
        gap = probabilities - (labels.numpy()[known] == k)
        for column, values in enumerate((gap, np.ones_like(gap))):
            expected = np.histogram(probabilities, 10, (0, 1), weights=values)[0]
            assert gaps[0, k - 1, :, column].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-2)


def test_other_classes_are_told_no_confidence(tmp_path, caplog):
    fitted_model(classification_labels=["a", "b"]).save_pretrained(tmp_path)
    loaded = ResFormerForMultiTask.from_pretrained(tmp_path, classification_labels=["c", "d"])
    assert loaded.config.confidence_weights is loaded.config.confidence_limit is None
    assert loaded.config.distance_limit == FITTED["distance_limit"]


def test_one_head_alone_loads_from_such_a_checkpoint(tmp_path):
    fitted_model().save_pretrained(tmp_path)
    _, report = ResFormerForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]


def test_a_model_without_it_is_as_it_was(tmp_path):
    model = ResFormerForMultiTask(tiny_config()).eval()
    assert not [name for name in model.state_dict() if "familiarity" in name]
    assert set(model(torch.rand(1, 3, 64, 64))) == {"segmentation_logits", "classification_logits"}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["confidence_weights"] is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"familiarity_components": 10_000}, "familiarity_components=10000"),
        ({"distance_limit": 1.0}, "need familiarity_components"),
        ({"familiarity_components": 2, "confidence_weights": [1.0]}, "four finite numbers"),
        ({"familiarity_components": 2, "distance_limit": -1.0}, "distance_limit"),
    ],
)
def test_values_out_of_range_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        tiny_config(**settings)
