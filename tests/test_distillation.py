"""Learning from a trained model: the divergence against torch's own, and a run by flags."""

import json

import pytest
import torch
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import ARCHITECTURE, tiny_config
from small_trainer import make_trainer
from torch.distributions import Bernoulli, Categorical, kl_divergence

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessor,
)
from modeling_resformer.commands import train
from modeling_resformer.errors import BadInputError
from modeling_resformer.heads import TASKS
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.training.distillation import Teacher, class_divergence, mask_divergence


LABELS = {"id2label": dict(enumerate(MASK_CLASSES)), "classification_labels": CLASS_LABELS}


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def test_masks_diverge_as_torchs_distributions_say():
    student, teacher = noise(2, 3, 5, 7, seed=0), noise(2, 3, 5, 7, seed=1)
    one, other = (Categorical(logits=logits.permute(0, 2, 3, 1)) for logits in (teacher, student))
    torch.testing.assert_close(mask_divergence(student, teacher), kl_divergence(one, other).mean())


@pytest.mark.parametrize("exclusive", [True, False])
def test_classes_diverge_as_torchs_distributions_say(exclusive):
    student, teacher = noise(4, 3, seed=0), noise(4, 3, seed=1)
    kind = Categorical if exclusive else Bernoulli
    expected = kl_divergence(kind(logits=teacher), kind(logits=student)).mean()
    torch.testing.assert_close(class_divergence(student, teacher, exclusive), expected)


def test_nothing_is_left_to_learn_of_ones_equal():
    logits = noise(2, 3, 6, 6, seed=0).requires_grad_()
    classes = noise(2, 3, seed=0).requires_grad_()
    loss = mask_divergence(logits, logits.detach()) + class_divergence(classes, classes.detach(), False)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert max(logits.grad.abs().max(), classes.grad.abs().max()) < 1e-7


def test_a_teacher_of_larger_images_is_brought_to_the_students_pixels():
    """What is the same everywhere is so at every size, and halves of a large image are halves of a small one."""
    student = noise(1, 2, 8, 8, seed=0)
    everywhere = noise(1, 2, 1, 1, seed=1)
    same = [mask_divergence(student, everywhere.expand(1, 2, side, side)) for side in (8, 20)]
    torch.testing.assert_close(*same)
    halves = torch.full((1, 2, 8, 8), 20.0)
    halves[:, 0, :, :4], halves[:, 1, :, 4:] = -20.0, -20.0
    larger = halves.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(mask_divergence(student, larger), mask_divergence(student, halves), rtol=0.1, atol=0)


def teacher_of(config, weight=1.0, model_class=ResFormerForMultiTask):
    torch.manual_seed(5)
    return Teacher.of(model_class(config), ResFormerImageProcessor(size={"height": 48, "width": 48}), weight)


def test_a_student_comes_closer_to_its_teacher_without_any_annotation(tmp_path):
    dataset = prepared_dataset()
    teacher = teacher_of(tiny_config(**LABELS), weight=20.0)
    trainer = make_trainer(
        dataset,
        tmp_path,
        trainer_settings={"teacher": teacher},
        model_settings={"segmentation_loss_weight": 0.0, "classification_loss_weight": 0.0},
        learning_rate=0.01,
        num_train_epochs=8,
        logging_steps=2,
    )
    trainer.data_collator.teacher_processor = teacher.image_processor
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    trainer.train()
    lines = [line for line in trainer.state.log_history if "distillation_loss" in line]
    assert lines[-1]["distillation_loss"] < 0.5 * lines[0]["distillation_loss"]
    assert lines[0]["loss"] == pytest.approx(20 * lines[0]["distillation_loss"], rel=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.model.state_dict().items())


def test_a_run_by_flags_records_its_teacher(tmp_path, caplog):
    prepared_dataset().save_to_disk(str(tmp_path / "dataset"))
    teacher = teacher_of(tiny_config(**LABELS))
    teacher.model.save_pretrained(tmp_path / "wise")
    teacher.image_processor.save_pretrained(tmp_path / "wise")
    given = {
        "dataset": tmp_path / "dataset",
        "output_dir": tmp_path / "run",
        "distill_from": tmp_path / "wise",
        "distillation_weight": 0.5,
        "config": json.dumps(ARCHITECTURE),
        "max_steps": 2,
        "image_size": 32,
        "use_cpu": True,
        "bootstrap_samples": 0,
        "logging_steps": 1,
    }
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    assert train.main(flags) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["teacher"] == "wise" and record["settings"]["distillation_weight"] == 0.5
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["distillation_loss"] > 0
    names = json.dumps(record)
    assert str(tmp_path) not in names


@pytest.mark.parametrize(
    ("settings", "model_class", "said"),
    [
        (
            {"classification_labels": ["a", "b"]},
            ResFormerForMultiTask,
            r"of image-level classes the teacher has \['a'",
        ),
        ({"id2label": {0: "b", 1: "x"}}, ResFormerForMultiTask, r"of mask classes the teacher has \['b', 'x'\], the"),
        ({"classification_type": "exclusive"}, ResFormerForMultiTask, "classification_type the teacher has exclusive"),
        ({}, ResFormerForSemanticSegmentation, "of image-level classes the teacher has none"),
        ({}, ResFormerForImageClassification, "of mask classes the teacher has none"),
    ],
)
def test_a_teacher_of_something_else_is_refused_in_one_line(settings, model_class, said):
    teacher = teacher_of(tiny_config(**{**LABELS, **settings}), model_class=model_class)
    with pytest.raises(BadInputError, match=said) as error:
        teacher.check("wise", tiny_config(**LABELS), TASKS["multi_task"])
    assert "\n" not in str(error.value)


def test_a_student_of_one_task_may_have_a_teacher_of_both():
    teacher = teacher_of(tiny_config(**LABELS))
    for name in ("segmentation", "classification"):
        teacher.check("wise", tiny_config(**LABELS), TASKS[name])


def test_a_weight_of_nothing_and_a_missing_teacher_are_refused(tmp_path, capsys):
    with pytest.raises(BadInputError, match=r"distillation_weight is 0\.0; expected a number above 0"):
        parse_arguments(["--dataset", "d", "--output_dir", "o", "--distillation_weight", "0"])
    prepared_dataset().save_to_disk(str(tmp_path / "dataset"))
    flags = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "run"), "--use_cpu"]
    flags += ["--config", json.dumps(ARCHITECTURE), "--distill_from", str(tmp_path / "nobody")]
    assert train.main(flags) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "--distill_from" in line and "nobody" in line
