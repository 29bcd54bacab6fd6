"""The size of a cluster's pool of workers: fixed, or another one while a stage runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pool:
    """How many workers there are: always the same number, or another one while a stage runs."""

    resize: Callable[[int], None]
    """Asks for that many workers, and does not wait for them."""
    workers: int
    """While a stage runs that is not named."""
    by_stage: Mapping[str, int]
    now: int = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.workers

    def enter(self, stage: str) -> None:
        """A stage begins, and none of the tasks before it is in flight."""
        wanted = self.by_stage.get(stage, self.workers)
        if wanted != self.now:
            self.now = wanted
            self.resize(wanted)
