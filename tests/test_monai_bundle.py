"""A repository as a MONAI bundle: MONAI runs its config to the pipeline's own mask and verifies its metadata.

MONAI checks metadata by a JSON schema that it downloads. Where that file is at hand, name it by MONAI_META_SCHEMA; else the keys
that MONAI's specification of bundles calls mandatory are asked for, by the same check.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from answering_model import sample_image, save_model
from PIL import Image
from published_run import FLUIDS, made_up_record, made_up_results


pytest.importorskip("ignite")
bundle = pytest.importorskip("monai.bundle")

from transformers import AutoImageProcessor, AutoModel

from modeling_resformer import ResFormerPipeline
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.publishing.monai_bundle import write_monai_bundle


TENSOR_KEYS = [
    "type",
    "format",
    "num_channels",
    "spatial_shape",
    "dtype",
    "value_range",
    "is_patch_data",
    "channel_def",
]
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "object", "required": TENSOR_KEYS}}
SPECIFIED = {
    "type": "object",
    "required": [
        *("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
        *("task", "description", "authors", "copyright", "network_data_format"),
    ],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+(\.\d+)*$"},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("bundle"))
    (folder / "results.json").write_text(json.dumps(made_up_results(FLUIDS)))
    (folder / "run.json").write_text(json.dumps(made_up_record(FLUIDS, source="folder")))
    write_monai_bundle(folder, "org/tiny", "v1.2", "apache-2.0", read_facts(folder))
    (folder / "examples").mkdir()
    sample_image().save(folder / "examples/wide.png")
    deep = np.asarray(sample_image().convert("L")).astype(np.uint16).T * 257
    Image.fromarray(deep).save(folder / "examples/deep.png")
    return folder


def test_monai_runs_it_to_the_pipelines_own_masks(repository):
    configs = repository / "configs"
    workflow = bundle.ConfigWorkflow(
        config_file=str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(repository),
    )
    workflow.initialize()
    assert not workflow.check_properties()
    workflow.run()
    processor = AutoImageProcessor.from_pretrained(repository)
    analyse = ResFormerPipeline(model=AutoModel.from_pretrained(repository), image_processor=processor)
    for name, size in (("wide", (70, 60)), ("deep", (60, 70))):
        with Image.open(repository / f"eval/{name}_mask.png") as mask:
            assert mask.size == size
            expected = analyse(str(repository / f"examples/{name}.png"))["segmentation"].numpy()
            assert len(np.unique(expected)) > 1
            np.testing.assert_array_equal(np.asarray(mask), expected)


def test_monai_verifies_the_metadata(repository, tmp_path):
    schema = Path(os.environ.get("MONAI_META_SCHEMA", tmp_path / "schema.json"))
    if not schema.is_file():
        schema.write_text(json.dumps(SPECIFIED))
    metadata = repository / "configs/metadata.json"
    bundle.verify_metadata(meta_file=str(metadata), filepath=str(schema))
    stated = json.loads(metadata.read_text())
    assert stated["version"] == "1.2" and stated["eval_metrics"] == {"dice": 0.88, "jaccard": 0.88}
    channels = stated["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {"0": "background", "1": "IRF", "2": "SRF", "3": "PED"}
    del stated["network_data_format"]
    (tmp_path / "metadata.json").write_text(json.dumps(stated))
    with pytest.raises(ValueError, match="Failed validating"):
        bundle.verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(schema))


def test_made_up_data_have_no_scores(repository, tmp_path):
    facts = replace(read_facts(repository), synthetic=True)
    write_monai_bundle(tmp_path, "org/tiny", "main", None, facts)
    stated = json.loads((tmp_path / "configs/metadata.json").read_text())
    assert stated["eval_metrics"] == {} and stated["version"] == "0.1.0"
