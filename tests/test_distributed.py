"""Several processes: every variant and every mix of labels trains under DDP, and evaluation is that of one process.

Run by torch.distributed.run, this file is the worker of its own tests.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prepared_data import prepared_dataset
from small_model import tiny_config
from small_trainer import make_trainer, scores_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessor,
)
from modeling_resformer.data.rows import EvaluationRows
from modeling_resformer.evaluation.evaluation_metrics import EvaluationMetrics


TRAIN = ("-m", "modeling_resformer.commands.train")
PROCESSES = 2
TWO_LEVELS = {
    "hidden_sizes": [4, 8],
    "cnn_depths": [1, 1],
    "transformer_depths": [2, 2],
    "num_attention_heads": [2, 2],
    "window_size": 3,
}
# Class, config, and `use_reentrant` of gradient checkpointing, None for none.
VARIANTS = {
    "sequential": (ResFormerForMultiTask, {}, None),
    "parallel": (ResFormerForMultiTask, {"block_type": "parallel"}, None),
    "plain_skips": (ResFormerForMultiTask, {"use_dfe": False}, None),
    "parallel_plain_skips": (ResFormerForMultiTask, {"block_type": "parallel", "use_dfe": False}, None),
    "all_losses": (ResFormerForMultiTask, {"cross_entropy_weight": 0.5, "focal_weight": 0.5}, None),
    "exclusive": (ResFormerForMultiTask, {"classification_type": "exclusive", "label_smoothing": 0.1}, None),
    "drop_path": (ResFormerForMultiTask, {"drop_path_rate": 0.5}, None),
    "checkpointing": (ResFormerForMultiTask, {}, False),
    "reentrant_checkpointing": (ResFormerForMultiTask, {"block_type": "parallel"}, True),
    "segmentation": (ResFormerForSemanticSegmentation, {}, None),
    "segmentation_checkpointing": (ResFormerForSemanticSegmentation, {"use_dfe": False}, False),
    "classification": (ResFormerForImageClassification, {}, None),
    "classification_checkpointing": (ResFormerForImageClassification, {"block_type": "parallel"}, True),
}
# Of these every mix of labels is tried, of the others the first and the last.
EVERY_MIX = ("sequential", "exclusive", "reentrant_checkpointing", "segmentation", "classification")
# Process numbers whose batch holds no mask, and no label.
UNLABELLED = {"full": ([], []), "no_mask_on_one": ([0], []), "no_label_on_one": ([], [1]), "nothing": ([0, 1], [0, 1])}


def mixes_of(variant):
    return list(UNLABELLED) if variant in EVERY_MIX else ["full", "nothing"]


def make_batch(model_class, rank, without_mask, without_labels):
    generator = torch.Generator().manual_seed(rank)
    pixels = torch.randn(2, 3, 16, 20, generator=generator)
    masks = torch.randint(0, 4, (2, 16, 20), generator=generator)
    labels = torch.eye(3)[torch.randint(0, 3, (2,), generator=generator)]  # which classes of either type may have
    masks = torch.full_like(masks, 255) if rank in without_mask else masks
    labels = torch.full_like(labels, -100) if rank in without_labels else labels
    names = {
        ResFormerForMultiTask: {"mask_labels": masks, "class_labels": labels},
        ResFormerForSemanticSegmentation: {"labels": masks},
        ResFormerForImageClassification: {"labels": labels},
    }
    return {"pixel_values": pixels, **names[model_class]}


def gradient(model, forward, batch):
    """All gradients of one step as one vector; a parameter without one is an error."""
    model.zero_grad()
    forward(**batch).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def compare_gradients(model_class, settings, use_reentrant, unlabelled):
    """Largest differences of the gradient under DDP: between processes, and from the mean over their batches."""
    torch.manual_seed(0)
    model = model_class(tiny_config(**TWO_LEVELS, **settings)).train()
    rank = torch.distributed.get_rank()
    batches = [make_batch(model_class, number, *unlabelled) for number in range(PROCESSES)]
    expected = torch.stack([gradient(model, model, batch) for batch in batches]).mean(0)
    if use_reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    found = gradient(model, DistributedDataParallel(model), batches[rank])
    others = [torch.empty_like(found) for _ in range(PROCESSES)]
    torch.distributed.all_gather(others, found)
    return {
        "finite": bool(found.isfinite().all()),
        "largest": found.abs().max().item(),
        "between_processes": (others[0] - others[1]).abs().max().item(),
        "from_mean": (found - expected).abs().max().item(),
    }


def sharded_difference(unlabelled):
    """Largest difference of the gradient under FSDP2, by the layers of scripts/launch/fsdp.yaml, from the mean."""
    batches = [make_batch(ResFormerForMultiTask, number, *unlabelled) for number in range(PROCESSES)]
    torch.manual_seed(0)
    model = ResFormerForMultiTask(tiny_config(**TWO_LEVELS)).train()
    expected = torch.stack([gradient(model, model, batch) for batch in batches]).mean(0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    mesh = init_device_mesh("cpu", (PROCESSES,))
    layers = {"ResFormerStage", "ResFormerDilatedFeatureEnhancement", "ResFormerDecoderLayer"}
    for module in [module for module in model.modules() if type(module).__name__ in layers]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.zero_grad()
    model(**batches[torch.distributed.get_rank()]).loss.backward()
    found = torch.cat([parameter.grad.full_tensor().flatten() for parameter in model.parameters()])
    return (found - expected).abs().max().item()


def train_and_evaluate(folder):
    """Losses, scores and counts of an evaluation by all processes after three steps; the model is saved."""
    trainer = make_trainer(
        prepared_dataset(), folder, per_device_eval_batch_size=2, max_steps=3, ddp_find_unused_parameters=False
    )
    trainer.train()
    metrics = losses_and_scores(trainer.evaluate())
    trainer.save_model(str(folder))
    counts = trainer.compute_metrics.rows.mask_counts.sum(axis=0).tolist()
    return {"processes": trainer.args.world_size, "metrics": metrics, "counts": counts}


def losses_and_scores(metrics):
    return {name: value for name, value in scores_of(metrics).items() if name != "epoch"}


def work(folder):
    """What each process does; the first one writes down what it found."""
    evaluation = train_and_evaluate(folder / "run")
    gradients = {
        variant: {kind: compare_gradients(*settings, UNLABELLED[kind]) for kind in mixes_of(variant)}
        for variant, settings in VARIANTS.items()
    }
    sharded = {kind: sharded_difference(unlabelled) for kind, unlabelled in UNLABELLED.items()}
    if torch.distributed.get_rank() == 0:
        found = {"evaluation": evaluation, "gradients": gradients, "sharded": sharded}
        (folder / "found.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    # What torch's threads do at a normal exit (seen: an abort, one time in many, under load) is not what is tested here.
    os._exit(0)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES)]
    command = [sys.executable, *launch, __file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "helpers")}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return {"folder": folder / "run", **json.loads((folder / "found.json").read_text())}


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_mixes_of_labels_give_every_process_the_mean_gradient(found, variant):
    """DDP is left at `find_unused_parameters=False`: a parameter without gradient would be an error or a hang."""
    assert list(found["gradients"][variant]) == mixes_of(variant)
    for kind, result in found["gradients"][variant].items():
        assert result["finite"], kind
        assert result["between_processes"] == 0, kind
        if variant != "drop_path":
            assert result["from_mean"] < 1e-6, kind
        assert (result["largest"] == 0) == (kind == "nothing"), kind


@pytest.mark.long
def test_shared_out_over_processes_it_gets_the_mean_gradient_too(found):
    assert set(found["sharded"]) == set(UNLABELLED)
    assert max(found["sharded"].values()) < 1e-6


@pytest.mark.long
def test_evaluation_after_training_is_that_of_the_saved_model_in_one_process(found, tmp_path):
    """Each process has its own running batch-norm statistics until then; rows that fill up batches count once."""
    trainer = make_trainer(prepared_dataset(), tmp_path, per_device_eval_batch_size=2)
    trainer.model = ResFormerForMultiTask.from_pretrained(found["folder"])
    alone = losses_and_scores(trainer.evaluate())
    evaluation = found["evaluation"]
    assert evaluation["processes"] == PROCESSES
    assert trainer.compute_metrics.rows.mask_counts.sum(axis=0).tolist() == evaluation["counts"]
    assert evaluation["metrics"] == pytest.approx(alone, abs=1e-6)


def test_sync_batch_norm_keeps_its_statistics_under_gradient_checkpointing_and_saves_the_plain_names(tmp_path):
    """In one process it computes what batch norm computes; several processes need CUDA."""
    torch.manual_seed(0)
    plain = ResFormerForMultiTask(tiny_config()).train()
    synchronised = ResFormerForMultiTask(tiny_config()).train()
    synchronised.load_state_dict(plain.state_dict())
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(synchronised)
    synchronised.gradient_checkpointing_enable()
    pixels = torch.randn(2, 3, 32, 32)
    for model in (plain, synchronised):
        model(pixels).segmentation_logits.square().mean().backward()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(synchronised.state_dict()[name], tensor, msg=name)
    synchronised.save_pretrained(tmp_path)
    _, report = ResFormerForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())


@pytest.mark.long
def test_accelerate_launch_runs_the_script_from_data_to_results(tmp_path):
    """Nine training and seven test rows in batches of two on two processes: last batches are filled up or incomplete."""
    dataset = prepared_dataset(train=9, validation=5, test=7)
    dataset.save_to_disk(str(tmp_path / "dataset"))
    recipe = {"config": {**TWO_LEVELS, "dilation_rates": [1, 2]}, "num_train_epochs": 1, "bootstrap_samples": 0}
    recipe |= {"image_size": 32, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2}
    recipe |= {"class_weights": "balanced", "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(PROCESSES), *TRAIN]
    flags = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "run")]
    flags += ["--use_cpu", "--ddp_backend", "gloo"]
    command = [sys.executable, *launch, str(tmp_path / "recipe.json"), *flags]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    # Five batches of two for two processes: three steps.
    assert sum("grad_norm" in line for line in log) == 3
    assert finished.stderr.count("7 test images") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    trainer = make_trainer(dataset, tmp_path / "alone", per_device_eval_batch_size=3)
    trainer.model = ResFormerForMultiTask.from_pretrained(tmp_path / "run")
    trainer.data_collator.image_processor = ResFormerImageProcessor.from_pretrained(tmp_path / "run")
    trainer.compute_metrics = EvaluationMetrics(trainer.model.config)
    alone = trainer.evaluate(EvaluationRows(dataset["test"]))
    for name, value in results["losses"].items():
        assert value == pytest.approx(alone[f"eval_{name}"], abs=1e-6), name
    for name in ("dice", "jaccard", "dice_volume", "accuracy", "auc"):
        assert results["model"][name]["value"] == pytest.approx(alone[f"eval_{name}"], abs=1e-6), name


if __name__ == "__main__":
    work(Path(sys.argv[1]))
