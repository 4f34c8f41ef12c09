"""One process or several, as `accelerate launch` starts them: who does what, and who waits for whom."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from ..errors import BadInputError


LONGEST_WAIT = timedelta(days=7)  # for the slowest process, at the end


class Processes:
    """The processes of one run; accelerate is imported only where there are several.

    Attributes:
        rank: number of this process.
        count: how many there are.
        device: torch device of this process.

    Raises:
        BadInputError: there is no such device.
    """

    def __init__(self, device: str | None) -> None:
        self.count, self.rank = 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=device == "cpu", timeout=LONGEST_WAIT)
            self.count, self.rank, device = state.num_processes, state.process_index, device or state.device
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's part of what all have to do."""
        return items[self.rank :: self.count]

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes in all of them; waits for every process."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A step that every process ends before any goes on; where one fails, all do.

        Raises:
            Exception: the error of this process, or BadInputError with the message of another's.
        """
        error = None
        try:
            yield
        except Exception as raised:  # told to the others before it goes on its way
            error = raised
        errors = self.gather([] if error is None else [str(error)])
        if error is not None:
            raise error
        if errors:
            raise BadInputError(errors[0])


def usable_device(device: str | torch.device) -> torch.device:
    """The torch device of that name.

    Raises:
        BadInputError: torch knows no such device, or this machine has none.
    """
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise BadInputError(f"--device {device}: {reason}; expected a device of this machine, such as cpu") from error
