"""What the ledger tells, gathered in one pass."""

from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY, NOT_DONE, OK, gather
from ssem_dask.task import Cause, Outcome, TaskReport


def ended(
    key: str, outcome: Outcome, *, started: str = "2026-01-01T00:00:00+00:00", seconds: float = 10.0
) -> TaskReport:
    return TaskReport(
        key=key,
        digest="d",
        outcome=outcome,
        cause=Cause.IO if outcome is Outcome.FAILED else None,
        worker="a:1",
        started=started,
        seconds=seconds,
        pixels=100,
        bytes_read=7,
    )


def test_windows_take_the_sections_of_their_task() -> None:
    found = gather(
        [
            ended("register/z000004-y0000256-x0000000", Outcome.FAILED),
            ended("register/z000000-y0000000-x0000512", Outcome.LOW_QUALITY),
            ended("register/z000000-y0000000-x0000000", Outcome.OK),
        ],
        sections=6,
        windows=(2, 2),
        window=(256, 512),
        depth=4,
    )
    assert (found.windows[4:, 1, 0] == FAILED).all()
    assert (found.windows[:4, 0, 1] == LOW_QUALITY).all()
    assert (found.windows[:4, 0, 0] == OK).all()
    assert (found.windows[:4, 1, 0] == NOT_DONE).all()
    assert found.failed_count == 1
    assert [r.key for r in found.failed] == ["register/z000004-y0000256-x0000000"]


def test_stages_count_time_and_bytes() -> None:
    found = gather(
        [
            ended("render/b", Outcome.OK, started="2026-01-01T00:00:05+00:00"),
            ended("render/a", Outcome.FAILED),
            ended("coarse/a", Outcome.OK, started="2025-12-31T00:00:00+00:00"),
        ],
        sections=1,
        windows=(1, 1),
        window=(1, 1),
        depth=1,
    )
    assert list(found.stages) == ["coarse", "render"]
    render = found.stages["render"]
    assert (render.wall, render.busy, render.pixels, render.bytes_read) == (15.0, 20.0, 100, 14)
    # A day between the stages is a pause, not work.
    assert found.at_work == 25.0
    assert found.wall == 86415.0


def test_an_empty_ledger() -> None:
    found = gather([], sections=2, windows=(1, 1), window=(1, 1), depth=1)
    assert (found.at_work, found.wall, found.failed_count) == (0.0, 0.0, 0)
