"""Check the network on a GPU against the CPU, and measure how fast it trains and predicts there.

    python scripts/gpu_check.py --output runs/gpu_check

Loss, logits and gradients of one training step, computed on the GPU in several ways (fp32, TF32, bf16; fused and plain
attention; channels last; gradient checkpointing; more windows than a CUDA grid takes heads; with --compile compiled),
are compared with fp32 and plain attention on the CPU. Then throughput and peak memory are measured at several batch
sizes. Into the output folder goes one JSON file named after the device. Needs torch and transformers only.

On a machine without a GPU `--device cpu --tiny` does the same with a small model, in seconds. The exit status is 0, 1
where a comparison failed, or 2 where there is no GPU.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_output


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add_output(parser, type=Path, required=True, help="folder for DEVICE.json")
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    add("--tiny", action="store_true", help="a small model at 48 pixels")
    add("--compile", action="store_true", help="also check torch.compile")
    add("--side", type=int, default=224, help="of the images, in pixels")
    add("--batch-sizes", type=int, nargs="+", default=[8, 32, 64], help="to measure; 0 for none")
    add("--seconds", type=float, default=2.0, help="for each measurement at least")
    add("--cpu-threads", type=int, help="threads of torch on the CPU (torch's choice)")
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 1 where a comparison failed, or 2 where there is no GPU."""
    given = parse(sys.argv[1:] if argv is None else argv)
    import torch

    from ..files import write_whole
    from ..training.gpu_comparison import check_gpu

    if given.cpu_threads is not None:
        torch.set_num_threads(given.cpu_threads)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.stderr.write("error: this machine has no GPU that torch can use; --device cpu --tiny tries the script\n")
        return 2
    results = check_gpu(
        torch.device(given.device),
        lambda line: sys.stdout.write(line + "\n") and sys.stdout.flush(),
        tiny=given.tiny,
        compiled=given.compile,
        side=given.side,
        batch_sizes=given.batch_sizes,
        seconds=given.seconds,
    )
    path = given.output / f"{results['device'].replace(' ', '_').replace('/', '_')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(results, indent=2) + "\n")
    sys.stdout.write(f"written to {path}\n")
    return 0 if all(entry["passed"] for entry in results["comparisons"] + results["many_windows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
