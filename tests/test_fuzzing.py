"""The fuzzer tells bad outcomes from good ones; by `make test-slow` every reader gets some mutants, and every command some kills."""

import ctypes
import os
import time

import pytest
from fuzzing import Target, fuzz
from mutants import mutant

from modeling_resformer.errors import BadInputError


def refuse(path):
    raise BadInputError(f"{path}: no")


def refuse_without_a_name(path):
    raise BadInputError("no")


def refuse_at_length(path):
    raise BadInputError(f"{path}: one\ntwo")


def fill_memory(path):
    return b"x" * (450 << 20)


READERS = {
    "read": lambda path: path.read_bytes(),
    "refused": refuse,
    "traceback": lambda path: {}["key"],
    "message": refuse_without_a_name,
    "crash": lambda path: ctypes.string_at(0),
    "hang": lambda path: time.sleep(60),
    "memory": fill_memory,
    "forbidden": lambda path: (path.parents[1] / "elsewhere").write_bytes(b"x"),
}


@pytest.mark.parametrize("outcome", READERS)
def test_an_outcome_is_told_by_its_name(tmp_path, outcome):
    seconds, count = {"hang": (0.3, 1), "memory": (60, 1)}.get(outcome, (60, 2))
    target = Target(lambda folder: [b"seed"], READERS[outcome], "a.bin", (BadInputError,), seconds=seconds)
    tally = fuzz(target, range(count), tmp_path)
    assert tally.counts[outcome] == count
    assert bool(tally.counts["bad"]) == (outcome not in ("read", "refused"))
    if outcome not in ("read", "refused"):
        assert next(iter(tally.first.values())) == 0


def test_several_lines_and_programs_are_bad(tmp_path):
    for reader, outcome in ((refuse_at_length, "message"), (lambda path: os.system("true"), "forbidden")):
        target = Target(lambda folder: [b"seed"], reader, "a.bin", (BadInputError,))
        assert fuzz(target, range(1), tmp_path).counts[outcome] == 1


def test_a_mutant_is_a_function_of_its_number():
    seeds = [b'{"a": [1, 2], "b": "x"}', b"plain text, 3 words"]
    assert [mutant(seeds, number, True) for number in range(50)] == [
        mutant(seeds, number, True) for number in range(50)
    ]
    assert len({mutant(seeds, number) for number in range(50)}) > 40


# Slow ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_reader_reads_or_refuses(tmp_path):
    from fuzz_targets import TARGETS

    for name, target in TARGETS.items():
        tally = fuzz(target, range(100), tmp_path / name)
        assert not tally.first, (name, tally.first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "predict", "train", "push"])
def test_a_command_that_is_killed_leaves_the_old_or_the_new(tmp_path, name):
    from faults import COMMANDS, try_kills

    assert try_kills(COMMANDS[name](tmp_path), tmp_path / "kills", 4).problems == []
