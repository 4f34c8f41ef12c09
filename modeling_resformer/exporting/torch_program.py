"""Writes a checkpoint's network as a `torch.export` program: torch runs it without this package, ExecuTorch and AOTInductor compile it."""

import copy
import io
import json
from pathlib import Path

import torch
from torch.export import Dim
from torch.fx.experimental import _config as shape_config

from ..files import whole_file
from ..pipeline_resformer import ResFormerPipeline
from .onnx_file import Network, analysis_settings, file_metadata


PROGRAM_NAME = "model.pt2"
METADATA = "resformer.json"  # among the program's extra files


def export_program(pipe: ResFormerPipeline, path: Path) -> None:
    """Writes a pipeline's network, from normalised pixels to logits, for any batch and any size of image.

    `torch.export.load(path).module()` takes `pixel_values` (B, 3, H, W) and gives the model's logits as a tuple: those of
    masks (B, S, H, W), those of classes (B, K), as far as the model has them, then `distance` and `confidence` where fitted. How
    pixels are made and what the classes are called stands in the extra file `resformer.json`.

    Args:
        pipe: with a float32 model on the CPU, in evaluation mode.
        path: of the file.

    Raises:
        BadInputError: the image processor has a setting that the metadata cannot tell.
    """
    settings = analysis_settings(pipe)
    # Odd sides, and two images: what is 1 or a multiple of a stride would be taken for a rule.
    example = torch.zeros(2, 3, 66, 98)
    # Weights that lie channels last would rule out batches of one.
    model = copy.deepcopy(pipe.model).to(memory_format=torch.contiguous_format)
    with torch.no_grad(), shape_config.patch(backed_size_oblivious=True):
        shapes = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
        program = torch.export.export(Network(model), (example,), dynamic_shapes=shapes)
    facts = file_metadata(pipe, settings, "float32")
    facts |= {"scale": json.dumps(settings.scale), "offset": json.dumps(settings.offset)}
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA: json.dumps(facts)})
    with whole_file(path) as beside:
        Path(beside).write_bytes(content.getbuffer())
