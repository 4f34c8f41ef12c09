"""Scores for benchmark datasets of the Hub: `.eval_results/*.yaml`, which their leaderboards read.

The card's model index says what was measured on any data; this is for datasets that call themselves a benchmark and name
tasks. What a task counts is the dataset's business: which score answers it is stated by whoever publishes.
"""

import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from ..errors import BadInputError
from .card import Terms
from .facts import Facts


FOLDER = ".eval_results"


def write_eval_results(folder: Path, terms: Terms, facts: Facts) -> None:
    """Writes one file for every benchmark dataset of `terms.benchmarks`.

    Raises:
        BadInputError: one that cannot be understood, a score that was not measured, or made-up data.
    """
    entries: dict[str, list[EvalResultEntry]] = {}
    for stated in terms.benchmarks:
        entry = eval_result_entry(stated, terms, facts)
        entries.setdefault(entry.dataset_id, []).append(entry)
    for dataset_id, of_dataset in entries.items():
        (folder / FOLDER).mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml(of_dataset), sort_keys=False)
        (folder / FOLDER / f"{dataset_id.replace('/', '--')}.yaml").write_text(text, encoding="utf-8")


def eval_result_entry(stated: str, terms: Terms, facts: Facts) -> EvalResultEntry:
    found = re.fullmatch(r"([\w.-]+/[\w.-]+):([\w.-]+)=(\w+)", stated)
    if not found:
        raise BadInputError(
            f"--benchmark {stated}: expected OWNER/DATASET:TASK=SCORE, such as org/isic2017:lesion=jaccard"
        )
    if facts.synthetic:
        raise BadInputError(f"--benchmark {stated}: what was measured on made-up data is no result; leave it out")
    dataset_id, task_id, name = found.groups()
    score = facts.score(name)
    if score is None:
        measured = ", ".join(sorted(one for one in facts.results["model"] if facts.score(one) is not None))
        raise BadInputError(f"--benchmark {stated}: results.json has no {name}; it has {measured}")
    return EvalResultEntry(
        dataset_id=dataset_id,
        task_id=task_id,
        value=round(score.value, 4),
        source_url=f"https://huggingface.co/{terms.repo_id}/blob/{terms.revision}/results.json",
        source_name="results.json",
        notes=f"{name}, split {facts.results.get('split')}, n={score.n}",
    )
