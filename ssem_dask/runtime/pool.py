"""The number of workers of a cluster: constant, or different while certain stages run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pool:
    """The wanted number of workers, which may differ between stages."""

    resize: Callable[[int], None]
    """Requests that many workers, without waiting for them."""
    workers: int
    """Workers while a stage runs that `by_stage` does not name."""
    by_stage: Mapping[str, int]
    requested: int = field(init=False)
    """Workers that were requested last."""

    def __post_init__(self) -> None:
        self.requested = self.workers

    def enter(self, stage: str) -> None:
        """Request the workers of a stage that begins; no task of an earlier stage may be in flight."""
        workers = self.by_stage.get(stage, self.workers)
        if workers != self.requested:
            self.requested = workers
            self.resize(workers)
