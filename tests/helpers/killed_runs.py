"""Runs of scripts/train.py, each in a process of its own that may die by SIGKILL, or whose files may not grow.

    python killed_runs.py '[{"flags": [...], "log": "log_0", "kill": {"step": 3}}, {"flags": [...], "log": "log_1"}, ...]'

One after the other; the exit codes, -9 for a killed run, are printed as a JSON list. The processes are forks of one that
has imported everything, which costs more than such a run.
"""

import gc
import json
import logging
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import torch

from modeling_resformer.commands import train
from modeling_resformer.training.resuming import RepeatableSteps


def die_before_step(number):
    begin = RepeatableSteps.on_step_begin

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == number:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(self, args, state, control, **kwargs)

    RepeatableSteps.on_step_begin = on_step_begin


def die_within_file(name):
    save = torch.save

    def half_saved(content, file, *arguments, **settings):
        if str(file).endswith(name):
            Path(file).write_bytes(b"half of what should be here")
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, file, *arguments, **settings)

    torch.save = half_saved


def run(flags, log, kill, largest_file):
    """In a child process; never returns."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    for moment, value in kill.items():
        {"step": die_before_step, "file": die_within_file}[moment](value)
    os._exit(train.main(flags))


def main(runs):
    """Exit codes. `truncate` names a file that is cut in half before a run, `keep` a copy of its folder afterwards."""
    codes = []
    for flags, log, more in ((run["flags"], run["log"], run) for run in runs):
        if path := more.get("truncate"):
            os.truncate(path, os.path.getsize(path) // 2)
        child = os.fork()
        if child == 0:
            try:
                run(flags, log, more.get("kill", {}), more.get("largest_file"))
            finally:
                os._exit(99)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if folder := more.get("keep"):
            shutil.copytree(flags[flags.index("--output_dir") + 1], folder)
    return codes


if __name__ == "__main__":
    gc.freeze()
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))
