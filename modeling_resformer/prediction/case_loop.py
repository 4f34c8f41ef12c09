"""The run: read ahead, one forward pass after the other, write behind; every finished case is noted in the journal.

In memory are the network's inputs and outputs of a few batches, as many full images as there are workers, and one volume.
Images are decoded once for the network and again for their overlay, which costs less than keeping them.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import BadInputError, OutputError
from ..image_processing_pil_resformer import upright
from ..limits import DEFAULT_LIMITS, InputLimits
from ..volumes.finding import mask_suffix
from .cases import Case, Stamp, StillCase, VolumeCase, is_dicom_case
from .journal import Journal, Record
from .measurements import measure_mask
from .predictor import Logits, Predictor, Prepared, mean_entropy
from .result_files import check_room, mask_image, overlay_image, write_result
from .result_tables import Row, printable, rounded, said_of


if TYPE_CHECKING:
    from ..volumes.dicom_seg import SegmentationWriter
    from ..volumes.scan import ScanVolume
    from .case_report import CasePages, Strongest

logger = logging.getLogger(__name__)

LONGEST_MESSAGE = 500  # characters

Problem = dict[str, str]
Unit = list[Case]  # images that share a forward pass, or one volume


def ordered(
    pool: Executor | None, function: Callable[[Any], Any], items: Iterable[Any], limit: int = 1
) -> Iterator[tuple[Any, Any, Exception | None]]:
    """Yields what `attempt` makes of each item, in order: on this thread, or in a pool with at most `limit` jobs begun."""
    if pool is None:
        yield from (attempt(function, item) for item in items)
        return
    begun: deque[Future] = deque()
    for item in items:
        begun.append(pool.submit(attempt, function, item))
        if len(begun) >= limit:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def attempt(function: Callable[[Any], Any], item: Any) -> tuple[Any, Any, Exception | None]:
    """(item, result, None) or (item, None, error).

    An error is the item's own, whatever a library made of it, but `OutputError`: that ends the run, and is raised.
    """
    try:
        return item, function(item), None
    except OutputError:
        raise
    except Exception as error:  # the boundary of a case: decoders raise what they meet in a damaged file
        return item, None, error


def problem_line(source: str, error: Exception) -> str:
    """One line that names the input; the type of an error that none of our own checks foresaw is named too."""
    message = " ".join(str(error).split())[:LONGEST_MESSAGE] or "no reason given"
    if not isinstance(error, BadInputError | OSError) and type(error) is not ValueError:
        message = f"cannot be used ({type(error).__name__}: {message}); copy it again"
    return message if source in message else f"{source}: {message}"


def units_of(cases: Sequence[Case], batch_size: int) -> list[Unit]:
    """Cases by forward pass. Which images share one depends on the inputs alone: a rerun rounds as the first run did."""
    units: list[Unit] = []
    for is_volume, group in groupby(cases, key=lambda case: isinstance(case, VolumeCase)):
        run, size = list(group), 1 if is_volume else batch_size
        units += [run[start : start + size] for start in range(0, len(run), size)]
    return units


@dataclass
class Run:
    """One process's part of a run.

    Attributes:
        predictor: the checkpoint.
        journal: where finished cases are noted.
        stamps: of the cases that are still to do, by source.
        pool: who reads and writes; None for the thread that predicts.
        workers: how many those are.
        batch_size: slices of a volume in a forward pass.
        limits: the largest input.
        draw: whether to write overlays, sheets and en-face views.
        segmentations: who writes the masks of DICOM as DICOM; None where nobody does.
        pages: who makes reports and thumbnails; None where nobody does.
        problems: what could not be done, filled by the run.
        passed, seconds: images and slices that went through the network, and the time of that alone.
    """

    predictor: Predictor
    journal: Journal
    stamps: dict[str, Stamp]
    pool: Executor | None
    workers: int
    batch_size: int
    draw: bool
    bar: tqdm
    limits: InputLimits = DEFAULT_LIMITS
    segmentations: "SegmentationWriter | None" = None
    pages: "CasePages | None" = None
    problems: list[Problem] = field(default_factory=list)
    passed: int = 0
    seconds: float = 0.0

    @property
    def output(self) -> Path:
        return self.journal.output

    def do(self, units: Iterable[Unit]) -> None:
        for is_volume, group in groupby(units, key=lambda unit: isinstance(unit[0], VolumeCase)):
            finished = self.finished_volumes if is_volume else self.finished_images
            for case, record, error in finished(group):
                self.note(case, error) if error else self.journal.add(record)
                self.bar.update()

    def finished_volumes(self, units: Iterable[Unit]) -> Iterator[tuple[Case, Record | None, Exception | None]]:
        return ordered(None, self.finish_volume, (case for (case,) in units))

    def finished_images(self, units: Iterable[Unit]) -> Iterator[tuple[Case, Record | None, Exception | None]]:
        predicted = self.predicted(units, lambda case: self.predictor.prepare(case.open(self.limits)), self.note)
        wanted = ((case, logits) for case, logits in predicted if case.source in self.stamps)
        finished = ordered(self.pool, lambda pair: self.finish_image(*pair), wanted, 2 * self.workers)
        return ((case, record, error) for (case, _), record, error in finished)

    def predicted(
        self,
        batches: Iterable[Sequence[Any]],
        prepare: Callable[[Any], Prepared],
        note: Callable[[Any, Exception], None],
    ) -> Iterator[tuple[Any, Logits]]:
        """Yields each item with its logits, items of a batch together; what cannot be prepared is noted and left out."""
        numbered = ((number, item) for number, batch in enumerate(batches) for item in batch)
        prepared = ordered(self.pool, lambda pair: prepare(pair[1]), numbered, 2 * self.batch_size)
        for _, group in groupby(prepared, key=lambda result: result[0][0]):
            batch = []
            for (_, item), inputs, error in group:
                note(item, error) if error else batch.append((item, inputs))
            yield from self.forwarded(batch, note)

    def forwarded(
        self, batch: list[tuple[Any, Prepared]], note: Callable[[Any, Exception], None]
    ) -> list[tuple[Any, Logits]]:
        """Where the network refuses a batch, its images are tried one by one."""
        began = time.monotonic()
        try:
            logits = self.predictor.forward([inputs for _, inputs in batch])
        except ValueError as error:
            if len(batch) > 1:
                return [pair for one in batch for pair in self.forwarded([one], note)]
            note(batch[0][0], error)
            return []
        self.seconds += time.monotonic() - began
        self.passed += len(batch)
        return [(item, answer) for (item, _), answer in zip(batch, logits, strict=True)]

    def note(self, case: Case, error: Exception) -> None:
        if case.source in self.stamps:
            message = problem_line(case.source, error)
            logger.debug("%s", message, exc_info=error)
            self.problems.append({"source": case.source, "problem": message})
            self.bar.write(f"ERROR: {printable(message)}", file=sys.stderr)

    def finish_image(self, case: StillCase, logits: Logits) -> Record:
        """Writes what is wanted of one image; returns its record."""
        row, mask = self.described(logits, case.spacing)
        row |= {"source": case.source, "case_id": case.case_id, "slice_index": case.slice_index}
        is_drawn = self.draw and mask is not None
        image = upright(case.open(self.limits))[0] if is_drawn or self.pages else None
        if mask is not None:
            if self.segmentations and is_dicom_case(case):
                row["dicom_seg"] = self.written_segmentation(case, mask[None], [Path(case.source)])
            row["mask"] = self.written(Path("masks") / f"{case.name}.png", mask_image(mask))
        if is_drawn:
            overlay = overlay_image(image, mask, said_of(row, self.predictor.classes.image))
            row["overlay"] = self.written(Path("overlays") / f"{case.name}.png", overlay)
        files = [row[kind] for kind in ("mask", "dicom_seg", "overlay") if row.get(kind)]
        if self.pages:
            evidence = partial(self.predictor.evidence_at, logits)
            files += self.written_pages(self.pages.of_image(case.name, row, image, mask, evidence))
        return self.record(case, [row], files)

    def written_pages(self, contents: Mapping[str, bytes]) -> list[str]:
        for name, content in contents.items():
            write_result(self.output / name, content)
        return list(contents)

    def written(self, name: Path, image: Image.Image) -> str:
        write_result(self.output / name, image)
        return name.as_posix()

    def written_segmentation(
        self, case: Case, mask: np.ndarray, files: Sequence[Path], slice_spacing: float | None = None
    ) -> str:
        """Writes a mask (slices, rows, columns) as DICOM SEG over its files; returns its name."""
        name = Path("dicom_seg") / f"{case.name}.dcm"
        try:
            self.segmentations.write(self.output / name, mask, files, slice_spacing)
        except OSError as error:
            raise OutputError(self.output / name, error) from error
        return name.as_posix()

    def described(self, logits: Logits, spacing: Sequence[float | None] | None) -> tuple[Row, np.ndarray | None]:
        """Scores, labels and measurements of one image or slice, and its mask (H, W) uint8 where there is one."""
        answer, classes = self.predictor.answer(logits), self.predictor.classes
        height, width = logits["target_size"][0]
        row: Row = {"height": height, "width": width}
        row["spacing_row_mm"], row["spacing_column_mm"] = spacing or (None, None)
        for name, threshold in zip(classes.image, self.predictor.thresholds, strict=bool(classes.image)):
            row[f"score_{name}"] = rounded(answer["class_scores"][name])
            row[f"label_{name}"] = name in answer["predicted_labels"]
            row[f"threshold_{name}"] = threshold
            if classes.label_sets:
                row[f"in_label_set_{name}"] = name in answer["label_set"]
        if classes.trust:
            row |= {name: rounded(answer[name]) for name in classes.trust}
            row["flags"], row["doubt"] = " ".join(answer["flags"]), answer["doubt"]
        if not classes.mask:
            return row, None
        if self.pages and not classes.image:
            row["mask_entropy"] = rounded(mean_entropy(logits["segmentation_logits"]))
        mask = answer["segmentation"].numpy().astype(np.uint8)
        for name, measured in measure_mask(mask, self.predictor.mask_class_names, None, spacing).items():
            facts = vars(measured) | {"mean_probability": answer["mask_classes"][name]["mean_probability"]}
            row |= {f"{fact}_{name}": rounded(value) for fact, value in facts.items()}
        return row, mask

    def finish_volume(self, case: VolumeCase) -> Record:
        """Predicts one volume slice by slice, and writes its files; a slice that cannot be done fails the volume.

        Raises:
            OutputError: its results cannot be written, nor could others.
            Exception: it cannot be read, predicted, drawn or described.
        """
        from ..volumes.scan import read_scan

        scan = read_scan(case.volume, self.limits)
        intensity_range = scan.intensity_range(self.predictor.pipe.image_processor.intensity_range)
        masks = np.zeros(scan.voxels.shape, np.uint8)

        def finish(pair: tuple[int, Logits]) -> Row:
            index, logits = pair
            row, mask = self.described(logits, scan.pixel_spacing)
            if mask is not None:
                masks[index] = mask
            return {"source": case.source, "case_id": case.case_id, "slice_index": index, **row}

        def fail(_: int, error: Exception) -> None:
            raise error

        indices = range(scan.num_slices)
        batches = [indices[start : start + self.batch_size] for start in indices[:: self.batch_size]]
        predicted = self.predicted(
            batches, lambda index: self.predictor.prepare(scan.voxels[index], intensity_range), fail
        )
        shown = tqdm(predicted, case.name, len(indices), unit="slice", leave=False, disable=self.bar.disable)
        rows, strongest = [], {}
        for (index, logits), row, error in ordered(self.pool, finish, shown, 2 * self.workers):
            if error:
                fail(index, error)
            rows.append(row)
            if self.pages:
                strongest |= self.stronger(strongest, row, logits)
        return self.volume_record(case, scan, masks, rows, strongest)

    def stronger(self, before: Mapping[str, "Strongest"], row: Row, logits: Logits) -> dict[str, "Strongest"]:
        """By class, a slice whose score is higher than that of all slices before; it keeps the slice's evidence alone."""
        from .case_report import Strongest

        kept = {"evidence": logits["evidence"]} if "evidence" in logits else {}
        scores = {name: row[f"score_{name}"] for name in self.predictor.classes.image}
        return {
            name: Strongest(score, row["slice_index"], partial(self.predictor.evidence_at, kept))
            for name, score in scores.items()
            if name not in before or score > before[name].score
        }

    def volume_record(
        self,
        case: VolumeCase,
        scan: "ScanVolume",
        masks: np.ndarray,
        rows: list[Row],
        strongest: Mapping[str, "Strongest"],
    ) -> Record:
        """Writes the mask volume and what is drawn of it; returns the record with a row for each slice and one for all."""
        from ..volumes.scan import write_mask_volume
        from .measurements import measure_volume

        classes = self.predictor.classes
        slices, height, width = masks.shape
        whole: Row = {
            "source": case.source,
            "case_id": case.case_id,
            "slices": slices,
            "height": height,
            "width": width,
        }
        whole |= dict(
            zip(("spacing_slice_mm", "spacing_row_mm", "spacing_column_mm"), scan.spacing or (None,) * 3, strict=True)
        )
        for name in classes.image:
            whole[f"highest_score_{name}"] = max(row[f"score_{name}"] for row in rows)
            whole[f"slices_labelled_{name}"] = sum(row[f"label_{name}"] for row in rows)
        pages = partial(self.volume_pages, case, whole, rows, scan, masks, strongest)
        if not classes.mask:
            return self.record(case, rows, pages(), volume=whole)
        for name, measured in measure_volume(masks, self.predictor.mask_class_names, scan.spacing).items():
            whole |= {f"{fact}_{name}": rounded(value) for fact, value in vars(measured).items()}
        if self.segmentations and is_dicom_case(case):
            whole["dicom_seg"] = self.written_segmentation(case, masks, scan.source.files, scan.slice_spacing)
        whole["mask"] = f"masks/{case.name}{mask_suffix(case.volume)}"
        try:
            write_mask_volume(self.output / whole["mask"], masks, scan)
        except OSError as error:
            raise OutputError(self.output / whole["mask"], error) from error
        except RuntimeError:
            # SimpleITK does not say why: where as many bytes can be written, it was the volume's own fault.
            check_room(self.output / whole["mask"], masks.nbytes)
            raise
        for row in rows:
            row["mask"] = whole["mask"]
        if self.draw:
            said = [said_of(row, classes.image) for row in rows]
            whole |= self.drawn_volume(case, scan, masks, said)
        kinds = ("mask", "dicom_seg", "en_face", "sheet")
        files = [whole[kind] for kind in kinds if kind in whole]
        return self.record(case, rows, [*files, *pages()], volume=whole)

    def volume_pages(
        self,
        case: VolumeCase,
        whole: Row,
        rows: list[Row],
        scan: "ScanVolume",
        masks: np.ndarray,
        strongest: Mapping[str, "Strongest"],
    ) -> list[str]:
        if self.pages is None:
            return []
        made = self.pages.of_volume(case.name, whole, rows, scan.voxels, masks, scan.spacing, strongest)
        return self.written_pages(made)

    def drawn_volume(
        self, case: VolumeCase, scan: "ScanVolume", masks: np.ndarray, said: Sequence[Sequence[str]]
    ) -> Row:
        """Draws the volume from the front and its slices with the largest findings; returns the names of the files."""
        from .en_face import draw_en_face, worst_slices_sheet

        names = self.predictor.mask_class_names
        sheet = worst_slices_sheet(scan.voxels, masks, names, scan.spacing, case.name, said=said)
        return {
            "en_face": self.written(
                Path("en_face") / f"{case.name}.png", draw_en_face(masks, names, scan.spacing, case.name)
            ),
            "sheet": self.written(Path("overlays") / f"{case.name}.png", sheet),
        }

    def record(self, case: Case, rows: list[Row], files: list[str], **more: Any) -> Record:
        known = {"source": case.source, "stamp": self.stamps[case.source], "name": case.name}
        return {**known, "files": files, "rows": rows, **more}
