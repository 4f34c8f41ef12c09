"""A whole run of `scripts/predict.py`: inputs to cases, what is left of them to do, and the tables of all."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..errors import BadInputError
from ..files import alone
from ..limits import DEFAULT_LIMITS, InputLimits
from ..pipeline_resformer import OVERLAP
from .case_loop import Problem, Run, units_of
from .cases import Case, VolumeCase, dataset_cases, find_cases, is_dicom_case
from .journal import Journal, Record, prepare_output
from .predictor import Predictor, Windows, load_pipelines
from .processes import Processes
from .result_files import SHEET_IMAGES, sheet_tile, write_json, write_result, write_sheet
from .result_tables import Row, prediction_columns, printable, said_of, volume_columns, write_tables


if TYPE_CHECKING:
    from ..volumes.dicom_seg import SegmentationWriter
    from .case_report import CasePages

MOST_WORKERS = 8
SHOWN_ROWS = 10


@dataclass(frozen=True)
class Request:
    """What a run is asked for, as `scripts/predict.py` takes it.

    Attributes:
        model, revision: folder or Hub id; a folder of folds means the ensemble of its models.
        more_models: further members of an ensemble, whose probabilities are averaged with the model's.
        inputs: files, folders and patterns; empty where `dataset` (a prepared dataset) and `split` are given.
        output: folder to write; `overwrite` removes the predictions in it.
        threshold: decision threshold on the class scores; the checkpoint's own where None.
        tta: flips to average over, or False.
        keep_aspect_ratio: whether to fit images into the network's input and pad them; as the checkpoint does where None.
        sliding_window: whether masks are predicted in windows, with their `overlap` and the image's `window_scale`.
        draw: whether to draw overlays, sheets and en-face views.
        dicom_seg: whether to write the masks of DICOM as DICOM Segmentation too, with `segment_codes`, a JSON file, and, if
            `keep_identifiers`, with patient and study as the images have them.
        report: whether to write a report of each case, and the worklist.
        worklist: whether to write the worklist.
        batch_size: images a forward pass, or windows.
        cpu_threads: of each process; 1 also reads and writes on that one; None for all there are.
        limits: the largest input.
        runtime: what runs the network, "torch", "onnx" or "openvino".
    """

    model: str
    output: Path
    more_models: tuple[str, ...] = ()
    revision: str | None = None
    inputs: tuple[str, ...] = ()
    dataset: str | None = None
    split: str = "test"
    overwrite: bool = False
    threshold: float | None = None
    tta: str | bool = False
    keep_aspect_ratio: bool | None = None
    sliding_window: bool = False
    overlap: float = OVERLAP
    window_scale: float = 1.0
    draw: bool = True
    dicom_seg: bool = False
    segment_codes: Path | None = None
    keep_identifiers: bool = False
    report: bool = False
    worklist: bool = False
    batch_size: int = 8
    cpu_threads: int | None = None
    limits: InputLimits = DEFAULT_LIMITS
    runtime: str = "torch"

    @property
    def windows(self) -> Windows | None:
        return Windows(self.overlap, self.window_scale, self.batch_size) if self.sliding_window else None

    @property
    def images_at_once(self) -> int:
        """Images a forward pass. With windows one, so that few images at their own size are in memory."""
        return 1 if self.sliding_window else self.batch_size


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        rows: of images and of slices.
        volumes: a row for each volume.
        done_now, seconds: rows and time of this call alone.
        files: that were written for the whole run.
        problems: what could not be done.
        members: how many models answered, whose probabilities were averaged.
        network_rate: images a second of the network alone, over all processes.
    """

    rows: list[Row]
    volumes: list[Row]
    done_now: int
    seconds: float
    files: list[Path]
    problems: list[Problem]
    members: int = 1
    network_rate: float = 0.0

    def text(self) -> str:
        in_volumes = {volume["source"] for volume in self.volumes}
        images = [row for row in self.rows if row["source"] not in in_volumes]
        lines = [
            *first_lines(images, image_line, "predictions.csv"),
            *first_lines(self.volumes, volume_line, "volumes.csv"),
            *map(str, self.files),
        ]
        rate = f", {self.done_now / self.seconds:.1f} a second" if self.done_now else ""
        if rate and self.network_rate:
            rate += f" from file to file and {self.network_rate:.1f} a second in the network alone"
        lines.append(
            f"{len(self.rows)} images and slices, {self.done_now} of them now in {self.seconds:.1f} s{rate}; "
            f"{len(self.problems)} problems{f'; ensemble of {self.members} models' if self.members > 1 else ''}"
        )
        return printable("\n".join(lines) + "\n")


def first_lines(rows: Sequence[Row], line: Callable[[Row], str], table: str) -> list[str]:
    """A line for each of the first rows, and where the others stand."""
    more = len(rows) - SHOWN_ROWS
    return [*map(line, rows[:SHOWN_ROWS]), *([f"... and {more} more in {table}"] if more > 0 else [])]


def image_line(row: Row) -> str:
    scores = [f"{name.removeprefix('score_')} {row[name]:.2f}" for name in row if name.startswith("score_")]
    return f"{row.get('overlay') or row['source']}: {', '.join(scores)}"


def volume_line(row: Row) -> str:
    """What a row of `volumes.csv` says of each class: slices and mm3 (voxels where the spacing is unknown), or the scores."""
    found = []
    for name in names_after("slices_affected_", row):
        mm3 = row[f"volume_mm3_{name}"]
        size = f"{row[f'voxels_{name}']} voxels" if mm3 is None else f"{mm3:.3g} mm3"
        found.append(f"{name} in {row[f'slices_affected_{name}']} of {row['slices']} slices, {size}")
    if not found:
        found = [
            f"{name} in {row[f'slices_labelled_{name}']} of {row['slices']} slices, "
            f"highest score {row[f'highest_score_{name}']:.2f}"
            for name in names_after("highest_score_", row)
        ]
    return f"{row.get('sheet') or row.get('mask') or row['source']}: {'; '.join(found)}"


def names_after(prefix: str, row: Row) -> list[str]:
    return [name.removeprefix(prefix) for name in row if name.startswith(prefix)]


def predict(request: Request, processes: Processes) -> Summary:
    """Does this process's part of a run; the first process also writes the tables.

    Raises:
        BadInputError, FileNotFoundError: the request cannot be met.
        OutputError: a result cannot be written; what is finished is kept.
    """
    with alone(request.output, "--output") if processes.is_first else nullcontext():
        return predict_alone(request, processes)


def predict_alone(request: Request, processes: Processes) -> Summary:
    """As `predict`, while no other run writes there."""
    journal = Journal(request.output, processes.rank)
    known = {} if request.overwrite else {source: one["name"] for source, one in journal.finished().items()}
    cases = (
        find_cases(request.inputs, known) if request.inputs else dataset_cases(request.dataset, request.split, known)
    )
    check_flips(request.tta, cases)
    models = (request.model, *request.more_models)
    pipe, *others = load_pipelines(
        models, request.revision, processes.device, request.keep_aspect_ratio, request.runtime
    )
    predictor = Predictor(pipe, request.threshold, request.tta, tuple(others), request.windows, request.report)
    if request.sliding_window and not predictor.classes.mask:
        raise BadInputError(f"--sliding-window needs a model with masks; {request.model} only classifies")
    segmentations = segmentation_writer(request, predictor, cases) if request.dicom_seg else None
    pages = case_pages(request, predictor) if request.report or request.worklist else None
    with processes.together():
        if processes.is_first:
            settings = {**predictor.settings(), "overlays": request.draw}
            if segmentations:
                settings["dicom_seg"] = {name: vars(code) for name, code in segmentations.codes.items()}
                settings["identifiers"] = "kept" if request.keep_identifiers else "replaced"
            if pages:
                settings["pages"] = "reports" if pages.reports else "worklist"
            prepare_output(request.output, settings, request.overwrite)
    with (
        processes.together()
    ):  # nobody starts before all have seen the same journal, from which the work is shared out
        stamps = {case.source: case.stamp() for case in cases}
        before = set(finished(journal, cases, stamps))
    started = time.monotonic()
    with processes.together():
        run = run_share(request, processes, predictor, journal, cases, before, stamps, segmentations, pages)
    problems = processes.gather(run.problems)
    rate = sum(processes.gather([run.passed / run.seconds if run.passed else 0.0]))
    seconds = time.monotonic() - started
    if not processes.is_first:
        return Summary([], [], 0, seconds, [], problems)
    order = {case.source: number for number, case in enumerate(cases)}
    problems.sort(key=lambda problem: order[problem["source"]])
    records = finished(journal, cases, stamps)
    files = write_outputs(request, predictor, records, problems, pages)
    rows = [row for record in records.values() for row in record["rows"]]
    volumes = [record["volume"] for record in records.values() if "volume" in record]
    done_now = sum(len(record["rows"]) for source, record in records.items() if source not in before)
    return Summary(rows, volumes, done_now, seconds, files, problems, len(predictor.members), rate)


def check_flips(tta: str | bool, cases: Sequence[Case]) -> None:
    """Refuses to turn B-scans upside down.

    Raises:
        BadInputError: naming the first volume.
    """
    if tta != "both":
        return
    for case in cases:
        if isinstance(case, VolumeCase) or case.slice_index > 0:
            raise BadInputError(
                f"--tta both: {case.source} belongs to a volume, and slices have an up and a down; use --tta horizontal"
            )


def segmentation_writer(request: Request, predictor: Predictor, cases: Sequence[Case]) -> "SegmentationWriter":
    """Who writes masks as DICOM Segmentation.

    Raises:
        BadInputError: no DICOM among the cases, no masks, no highdicom, or codes that cannot be used.
    """
    if not any(is_dicom_case(case) for case in cases):
        raise BadInputError(
            f"--dicom-seg: none of the {len(cases)} inputs is DICOM, over which a DICOM segmentation could be laid; "
            "leave it out"
        )
    if not predictor.classes.mask:
        raise BadInputError(f"--dicom-seg needs a model with masks; {request.model} only classifies")
    try:
        from ..volumes.dicom_seg import SegmentationWriter, read_segment_codes
    except ImportError as error:
        raise BadInputError("--dicom-seg needs highdicom; install 'modeling-resformer[dicom-seg]'") from error
    classes = predictor.classes.mask
    codes = read_segment_codes(request.segment_codes, classes) if request.segment_codes else {}
    return SegmentationWriter(classes, codes, predictor.fingerprint(), request.keep_identifiers)


def case_pages(request: Request, predictor: Predictor) -> "CasePages":
    """Who makes the pages.

    Raises:
        BadInputError: there is no Jinja2.
    """
    try:
        from .case_report import CasePages, ModelFacts
    except ImportError as error:
        raise BadInputError("--report and --worklist need Jinja2; install 'modeling-resformer[predict]'") from error
    config, classes = predictor.pipe.model.config, predictor.classes
    # Of a folder its own name alone: where it lies is nobody's business.
    is_folder = Path(request.model).exists()
    model = ModelFacts(
        name=Path(request.model).resolve().name if is_folder else request.model,
        revision=request.revision or (None if is_folder else getattr(config, "_commit_hash", None)),
        weights=predictor.fingerprint(),
        members=len(predictor.members),
        is_calibrated=getattr(config, "is_calibrated", False),
        label_set_level=getattr(config, "label_set_level", None),
    )
    return CasePages(predictor.mask_class_names if classes.mask else (), classes, model, request.report)


def finished(journal: Journal, cases: Sequence[Case], stamps: dict[str, list[int]]) -> dict[str, Record]:
    """Records of the finished cases, in the order of the cases."""
    records = journal.finished()
    return {
        case.source: records[case.source]
        for case in cases
        if journal.is_finished(records.get(case.source), stamps[case.source])
    }


def run_share(
    request: Request,
    processes: Processes,
    predictor: Predictor,
    journal: Journal,
    cases: Sequence[Case],
    before: set[str],
    stamps: dict[str, list[int]],
    segmentations: "SegmentationWriter | None",
    pages: "CasePages | None",
) -> Run:
    """Predicts this process's share of what is left; the run, as it ended."""
    left = [
        unit for unit in units_of(cases, request.images_at_once) if any(case.source not in before for case in unit)
    ]
    share = processes.share(left)
    todo = {case.source: stamps[case.source] for unit in share for case in unit if case.source not in before}
    workers = worker_count(request.cpu_threads)
    with (
        pool_of(workers) as pool,
        logging_redirect_tqdm(),
        # None: no bar where no terminal redraws it, which would put the next message on its line.
        tqdm(desc="Predicting", total=len(todo), unit="case", disable=None if processes.is_first else True) as bar,
    ):
        shown = predictor, journal, todo, pool, workers, request.images_at_once, request.draw, bar
        run = Run(*shown, limits=request.limits, segmentations=segmentations, pages=pages)
        run.do(share)
    return run


def worker_count(cpu_threads: int | None) -> int:
    """Threads that read and write beside the forward pass; none where a process may use one thread only."""
    # Of the cores this process may use, where the system can tell.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    wanted = cpu_threads or max(share, 2)
    return 0 if wanted == 1 else min(wanted, MOST_WORKERS)


@contextmanager
def pool_of(workers: int) -> Iterator[Executor | None]:
    """Threads for a block, whose end drops what they have not begun; None where there are none."""
    if not workers:
        yield None
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def write_outputs(
    request: Request,
    predictor: Predictor,
    records: dict[str, Record],
    problems: list[Problem],
    pages: "CasePages | None",
) -> list[Path]:
    """Writes tables, sheet and problems from the records alone, so that a resumed run leaves what one run would have."""
    output, classes, members = request.output, predictor.classes, len(predictor.members)
    of_all = {"models": members} if members > 1 else {}
    rows = [row | of_all for record in records.values() for row in record["rows"]]
    volumes = [record["volume"] | of_all for record in records.values() if "volume" in record]
    written = write_tables(output / "predictions", prediction_columns(classes, members, request.dicom_seg), rows)
    if volumes:
        written += write_tables(output / "volumes", volume_columns(classes, members, request.dicom_seg), volumes)
    drawn = [row for row in rows if row.get("overlay")]
    if drawn:
        written.append(write_drawn(output, drawn, predictor))
    if pages:
        from .worklist import WORKLIST, worklist_page

        made = worklist_page(list(records.values()), classes, pages.model, len(problems))
        written.append(write_result(output / WORKLIST, made))
    (output / "problems.json").unlink(missing_ok=True)
    if problems:
        shown = [{name: printable(text) for name, text in problem.items()} for problem in problems]
        written.append(write_json(output / "problems.json", shown))
    return written


def write_drawn(output: Path, drawn: Sequence[Row], predictor: Predictor) -> Path:
    """Writes the sheet of the first of the rows that have an overlay."""
    shown = drawn[:SHEET_IMAGES]
    said = [said_of(row, predictor.classes.image) for row in shown]
    most = max(map(len, said))
    tiles = [
        sheet_tile(output / row["overlay"], (row["width"], row["height"]), lines, most)
        for row, lines in zip(shown, said, strict=True)
    ]
    return write_sheet(output / "sheet.png", tiles, predictor.mask_class_names, len(drawn))
