"""The recipes hold what they are named for: the paper's numbers, or ours."""

import json
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from prepared_data import prepared_dataset
from small_model import tiny_config

from modeling_resformer import ResFormerConfig, ResFormerForMultiTask
from modeling_resformer.commands import train
from modeling_resformer.training.arguments import parse_arguments


RECIPES = Path(__file__).parents[1] / "scripts" / "recipes"


def read(name, tmp_path, *flags):
    output = ["--dataset", "d", "--output_dir", str(tmp_path / "out")]
    return parse_arguments([str(RECIPES / f"{name}.json"), *output, *flags])


@pytest.mark.parametrize(("name", "image_size"), [("isic2017_paper", 224), ("retouch_paper", 512)])
def test_the_papers_recipes_carry_the_papers_numbers(name, image_size, tmp_path):
    """arXiv 2412.00351, "Implementation details"; it states no schedule and no clipping, so there are none."""
    model, data, training = read(name, tmp_path)
    assert data.image_size == image_size
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (8, 1)
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (0.003, 0.0001, 100)
    assert (training.adam_beta1, training.adam_beta2) == (0.9, 0.999)
    assert str(training.optim.value).startswith("adamw_torch")
    assert str(training.lr_scheduler_type.value) == "constant"
    assert (training.get_warmup_steps(1000), training.max_grad_norm) == (0, 0)
    assert min(data.rotation_degrees, data.horizontal_flip, data.vertical_flip) > 0
    assert (training.metric_for_best_model, training.greater_is_better) == ("loss", False)
    assert training.load_best_model_at_end
    # Randomly initialised, with the network and the loss weights of the paper, which are the defaults.
    assert (model.model_name_or_path, model.init_resnet) == (None, None)
    # Its loss of image-level classes is binary cross-entropy, whatever the labels of the data are like.
    assert model.config == {"classification_type": "multi_label"}
    assert (ResFormerConfig().classification_loss_weight, ResFormerConfig().segmentation_loss_weight) == (0.25, 1)


@pytest.mark.parametrize(("name", "image_size"), [("isic2017_recommended", 224), ("retouch_recommended", 512)])
def test_the_recommended_recipes_warm_up_anneal_and_clip(name, image_size, tmp_path):
    model, data, training = read(name, tmp_path)
    assert data.image_size == image_size
    assert str(training.lr_scheduler_type.value) == "cosine"
    assert training.get_warmup_steps(1000) == 50
    assert training.learning_rate < 1e-3
    assert training.max_grad_norm > 0
    assert ResFormerConfig(**model.config).window_size == (8 if image_size == 512 else 7)


def test_an_eye_is_never_turned_upside_down(tmp_path):
    _, data, _ = read("retouch_recommended", tmp_path)
    assert data.vertical_flip == 0
    assert data.rotation_degrees <= 20


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_number_formats_are_left_to_flags(recipe):
    """What one machine computes fast another refuses."""
    assert not {"bf16", "fp16", "tf32", "use_cpu"} & set(json.loads(recipe.read_text()))


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_every_evaluation_is_told_with_the_training_loss_and_nothing_is_reported_elsewhere(recipe, tmp_path):
    _, _, training = read(recipe.stem, tmp_path)
    assert training.report_to == []
    assert training.logging_strategy == training.eval_strategy
    if training.eval_strategy == "steps":
        assert training.logging_steps == training.eval_steps


@pytest.mark.long
def test_the_small_recipe_trains_on_data_of_any_classes_and_augments_by_their_kind(tmp_path):
    """Red and brown are no classes of ISIC 2017. What is done to an image is left to the dataset's modality."""
    recipe = json.loads((RECIPES / "small_cpu.json").read_text())
    known = json.loads((RECIPES / "isic2017_small_cpu.json").read_text())
    # The known one trains again what was measured, several labels an image; the other goes by the labels of its data.
    assert {**recipe["config"], "classification_type": "multi_label"} == known["config"]
    assert recipe["image_size"] == known["image_size"]
    assert not {"auc_classes", "rotation_degrees", "horizontal_flip", "vertical_flip", "color_jitter"} & set(recipe)
    prepared_dataset(train=4, validation=2, test=2).save_to_disk(str(tmp_path / "dataset"))
    flags = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    assert train.main([*flags, str(RECIPES / "small_cpu.json"), "--bootstrap_samples", "0", "--use_cpu"]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["model"]["dice"]["n"] == 2


def test_the_gpus_recipe_trains_the_full_network_in_large_batches(tmp_path):
    model, data, training = read("gpu_isic2017", tmp_path)
    config = ResFormerConfig(**model.config)
    assert (config.hidden_sizes, config.cnn_depths) == (ResFormerConfig().hidden_sizes, ResFormerConfig().cnn_depths)
    assert (data.image_size, training.per_device_train_batch_size) == (224, 32)
    assert training.dataloader_num_workers > 0


@pytest.mark.parametrize("path", sorted((RECIPES.parent / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_launchers_configs_are_read_by_accelerate_and_name_our_layers(path):
    config = load_config_from_file(str(path))
    assert config.num_processes > 1
    model = ResFormerForMultiTask(tiny_config())
    layers = {type(module).__name__ for module in model.modules()}
    wrapped = config.fsdp_config.get("fsdp_transformer_layer_cls_to_wrap", "")
    assert {name for name in wrapped.split(",") if name} <= layers
    assert (str(config.distributed_type.value) == "FSDP") == (path.stem == "fsdp")
