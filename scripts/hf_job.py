# /// script
# requires-python = ">=3.11"
# dependencies = ["modeling-resformer[vision,data,train,imagenet,hub,trackio]"]
# ///
"""Trains on a dataset of the Hub and publishes the model, where `hf jobs uv run` sends this file; see docs/train.md.

It stands in modeling_resformer/commands/hf_job.py, of the package that uv installs by the lines above.
"""

import sys

from modeling_resformer.commands.hf_job import main


if __name__ == "__main__":
    sys.exit(main())
