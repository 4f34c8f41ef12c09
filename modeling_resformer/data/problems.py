"""Bad input: one line that names the file, and the choice between stopping and skipping."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path


logger = logging.getLogger(__name__)


class BadInputError(ValueError):
    """Input that cannot become a dataset. The message is one line: the file, what is wrong, and the cure."""


@dataclass(frozen=True)
class Problems:
    """What happens to a bad case: stop at the first (`on_error="raise"`) or leave it out and record it (`"skip"`).

    Args:
        on_error: `"raise"` or `"skip"`.
        log: JSON-lines file that gets one record per skipped case; several processes may write to it.
    """

    on_error: str = "raise"
    log: str | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise BadInputError(f"on_error is {self.on_error!r}; expected 'raise' or 'skip'")

    def report(self, message: str, case_id: str | None = None) -> None:
        """Raises `BadInputError(message)`, or records it when cases may be skipped."""
        if self.on_error == "raise":
            raise BadInputError(message)
        logger.warning("skipped: %s", message)
        if self.log is not None:
            line = json.dumps({"case_id": case_id, "problem": message}) + "\n"
            # One write in append mode keeps the lines of parallel processes whole.
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


def unforeseen(path: Path, error: Exception) -> str:
    """One line for what none of our checks foresaw in a file; the traceback is logged for whoever wants to know more."""
    reason = " ".join(str(error).split())[:200]
    message = f"{path}: cannot be used ({type(error).__name__}: {reason}); replace the file"
    logger.debug("%s", message, exc_info=error)
    return message


def read_skipped(log: str | Path) -> list[dict[str, str | None]]:
    """Returns the records that `Problems.report` wrote, in a stable order; `[]` when nothing was skipped."""
    path = Path(log)
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(records, key=lambda record: (record["case_id"] or "", record["problem"]))
