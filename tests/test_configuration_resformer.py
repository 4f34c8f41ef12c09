"""The configuration: defaults, round trips, refusals, and what label overrides mean for each head."""

import json
import re

import pytest
from small_model import MASK_CLASSES, tiny_config

from modeling_resformer import (
    ResFormerBackbone,
    ResFormerConfig,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
)


MASK_NAMES = list(MASK_CLASSES.values())


def test_defaults_are_the_papers():
    config = ResFormerConfig()
    assert tuple(config.hidden_sizes) == (64, 128, 256, 512)
    assert tuple(config.num_attention_heads) == (2, 4, 8, 16)
    assert tuple(config.dilation_rates) == (6, 12, 18)
    assert (config.mlp_ratio, config.classification_loss_weight, config.segmentation_loss_weight) == (4.0, 0.25, 1.0)
    assert config.decoder_sizes == [256, 128, 64]


def test_saved_config_reloads_as_it_was(tmp_path):
    config = tiny_config(class_weights=[1, 2.5, 3.0], classification_thresholds=[0.4, 0.5, 0.6], block_type="parallel")
    config.save_pretrained(tmp_path)
    assert ResFormerConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("field", "value", "cure"),
    [
        ("num_attention_heads", [3, 2, 2, 4], "divisor of 8"),
        ("cnn_depths", [1, 1], "one entry per level"),
        ("hidden_sizes", [8], "one entry per level"),
        ("transformer_depths", [2, 2, 0, 2], "1 or more"),
        ("dilation_rates", [6, 0], "1 or more"),
        ("dilation_rates", [], "1 or more"),
        ("decoder_hidden_sizes", [8, 8], "3 positive entries"),
        ("class_weights", [1.0, 2.0], "IRF"),
        ("class_weights", [1.0, 2.0, -1.0], "above 0"),
        ("classification_thresholds", [0.5, 0.5, 1.5], "[0, 1]"),
        ("block_type", "stacked", "sequential, parallel"),
        ("window_size", 1, "2 or more"),
        ("drop_path_rate", 1.0, "[0, 1)"),
        ("dice_smooth", 0.0, "above 0"),
        ("mlp_ratio", 0.01, "1 or more"),
        ("mlp_ratio", float("nan"), "above 0"),
        ("image_size", -5, "pixels"),
        ("focal_weight", float("nan"), "0 or more"),
        ("semantic_loss_ignore_index", 2, "255"),
        ("classification_labels", ["a", "a"], "distinct"),
        ("classification_labels", [], "one or more"),
        ("id2label", {0: "background"}, "background and at least one class"),
        ("id2label", {0: "background", 2: "lesion"}, "without a gap"),
    ],
)
def test_a_wrong_value_is_refused_with_field_value_and_cure(field, value, cure):
    with pytest.raises(ValueError, match=re.escape(cure)) as error:
        tiny_config(**{field: value})
    assert field in str(error.value)
    assert "\n" not in str(error.value)
    assert str(value) in str(error.value)


@pytest.mark.parametrize("field", ["dice_smooth", "layer_norm_eps", "initializer_range", "mlp_ratio"])
def test_whole_numbers_are_numbers(field):
    assert getattr(tiny_config(**{field: 1}), field) == 1


def test_a_wrong_type_is_refused_with_the_field():
    with pytest.raises(Exception, match="window_size"):
        tiny_config(window_size="7")


def test_an_unknown_activation_is_refused_when_the_model_is_built():
    with pytest.raises(ValueError, match=r"hidden_act='gelluu'.*gelu"):
        ResFormerForMultiTask(tiny_config(hidden_act="gelluu"))


def test_a_value_set_later_is_refused_when_the_model_is_built(config):
    config.class_weights = [1.0]
    with pytest.raises(ValueError, match="class_weights"):
        ResFormerForMultiTask(config)


def test_image_level_labels_default_to_the_foreground():
    assert tiny_config().image_class_names == MASK_NAMES[1:]
    assert tiny_config(classification_labels=["sick"]).image_class_names == ["sick"]


# One checkpoint with 4 mask classes and 3 image-level classes, loaded with overrides by each class.


@pytest.fixture
def checkpoint(tmp_path):
    config = tiny_config(classification_labels=["a", "b", "c"], class_weights=[1.0, 2.0, 3.0])
    ResFormerForMultiTask(config).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def saved(folder):
    config = ResFormerConfig.from_pretrained(folder)
    problem_type = json.loads((folder / "config.json").read_text()).get("problem_type")
    return list(config.id2label.values()), config.classification_labels, problem_type


@pytest.mark.parametrize("how", ["model", "config"])
def test_every_class_saves_the_shared_config(checkpoint, tmp_path, how):
    for model_class in (ResFormerForImageClassification, ResFormerForSemanticSegmentation, ResFormerBackbone):
        model = model_class.from_pretrained(checkpoint)
        (model if how == "model" else model.config).save_pretrained(tmp_path / model_class.__name__)
        assert saved(tmp_path / model_class.__name__) == (MASK_NAMES, ["a", "b", "c"], None)


def test_classification_shows_its_own_labels_to_the_pipeline(checkpoint):
    config = ResFormerForImageClassification.from_pretrained(checkpoint).config
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.label2id == {"a": 0, "b": 1, "c": 2}
    assert config.problem_type == "multi_label_classification"
    assert config.mask_class_names == MASK_NAMES


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ({"num_labels": 4}, ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]),
        ({"num_labels": 3}, ["a", "b", "c"]),
        ({"num_labels": 1}, ["LABEL_0"]),
        ({"id2label": {0: "x", 1: "y"}}, ["x", "y"]),
        ({"id2label": MASK_CLASSES}, MASK_NAMES),
        ({"id2label": {"0": "x", "1": "y", "2": "z"}}, ["x", "y", "z"]),
        ({"label2id": {"x": 0, "y": 1}}, ["x", "y"]),
        ({"num_labels": 2, "id2label": {0: "x", 1: "y"}}, ["x", "y"]),
    ],
)
def test_overrides_for_classification_mean_its_own_head(checkpoint, tmp_path, override, names):
    model = ResFormerForImageClassification.from_pretrained(checkpoint, ignore_mismatched_sizes=True, **override)
    assert list(model.config.id2label.values()) == names
    assert model.classification_head.classifier.out_features == len(names)
    model.save_pretrained(tmp_path / "again")
    assert saved(tmp_path / "again")[:2] == (MASK_NAMES, names)
    segmentation = ResFormerForSemanticSegmentation.from_pretrained(tmp_path / "again")
    assert list(segmentation.config.id2label.values()) == MASK_NAMES
    assert segmentation.segmentation_head.classifier.out_channels == 4


@pytest.mark.parametrize("model_class", [ResFormerForMultiTask, ResFormerForSemanticSegmentation])
@pytest.mark.parametrize(
    ("override", "names"),
    [
        ({"num_labels": 2}, ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 4}, MASK_NAMES),
        ({"id2label": {0: "background", 1: "lesion"}}, ["background", "lesion"]),
        ({"id2label": {0: "w", 1: "x", 2: "y", 3: "z"}}, ["w", "x", "y", "z"]),
    ],
)
def test_overrides_for_the_others_mean_the_mask_head(checkpoint, tmp_path, model_class, override, names):
    model = model_class.from_pretrained(checkpoint, ignore_mismatched_sizes=True, **override)
    assert list(model.config.id2label.values()) == names
    assert model.segmentation_head.classifier.out_channels == len(names)
    model.save_pretrained(tmp_path / "again")
    assert saved(tmp_path / "again")[:2] == (names, ["a", "b", "c"])


def test_default_image_level_names_survive_an_override_of_the_mask_classes(tmp_path):
    ResFormerForMultiTask(tiny_config()).save_pretrained(tmp_path)
    model = ResFormerForMultiTask.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True)
    assert model.config.image_class_names == MASK_NAMES[1:]


def test_multi_task_takes_labels_for_its_second_head(checkpoint):
    model = ResFormerForMultiTask.from_pretrained(
        checkpoint, classification_labels=["x", "y"], ignore_mismatched_sizes=True
    )
    assert model.classification_head.classifier.out_features == 2
    assert model.config.mask_class_names == MASK_NAMES
    assert model.config.class_weights is None, "weights of other classes must not be kept"


@pytest.mark.parametrize(
    ("model_class", "override", "kept"),
    [
        (ResFormerForMultiTask, {"classification_labels": ["x", "y", "z"]}, None),
        (ResFormerForImageClassification, {"id2label": {0: "x", 1: "y", 2: "z"}}, None),
        (ResFormerForImageClassification, {"id2label": {0: "x", 1: "y"}, "class_weights": [4.0, 5.0]}, [4.0, 5.0]),
        (ResFormerForImageClassification, {"num_labels": 3}, [1.0, 2.0, 3.0]),
        (ResFormerForMultiTask, {"id2label": {0: "background", 1: "x"}}, [1.0, 2.0, 3.0]),
    ],
)
def test_weights_belong_to_the_classes_they_were_set_for(checkpoint, model_class, override, kept):
    model = model_class.from_pretrained(checkpoint, ignore_mismatched_sizes=True, **override)
    assert model.config.class_weights == kept


def test_one_config_object_serves_several_classes(checkpoint):
    config = ResFormerConfig.from_pretrained(checkpoint)
    classification = ResFormerForImageClassification(config)
    segmentation = ResFormerForSemanticSegmentation(classification.config)
    again = ResFormerForImageClassification(segmentation.config)
    assert segmentation.config.mask_class_names == MASK_NAMES == list(segmentation.config.id2label.values())
    assert again.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.id2label == MASK_CLASSES


def test_renamed_labels_of_a_classification_model_are_saved(checkpoint, tmp_path):
    model = ResFormerForImageClassification.from_pretrained(checkpoint)
    model.config.id2label = {0: "x", 1: "y", 2: "z"}
    model.save_pretrained(tmp_path / "again")
    assert saved(tmp_path / "again")[:2] == (MASK_NAMES, ["x", "y", "z"])
