"""The summary of a ledger, made in one pass."""

from ssem_dask.report.ledger_summary import FAILED, NOT_DONE, OK, summarise_ledger
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
    summary = summarise_ledger(
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
    assert (summary.window_codes[4:, 1, 0] == FAILED).all()
    # The outcome of a task is not that of each of its sections.
    assert (summary.window_codes[:4, 0, 1] == OK).all()
    assert (summary.window_codes[:4, 0, 0] == OK).all()
    assert (summary.window_codes[:4, 1, 0] == NOT_DONE).all()
    assert summary.failed_count == 1
    assert [r.key for r in summary.failed] == ["register/z000004-y0000256-x0000000"]


def test_stages_count_time_and_bytes() -> None:
    summary = summarise_ledger(
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
    assert list(summary.stages) == ["coarse", "render"]
    render = summary.stages["render"]
    assert (render.elapsed_seconds, render.worker_seconds, render.pixels, render.bytes_read) == (15.0, 20.0, 100, 14)
    # A day between the stages is a pause, not work.
    assert summary.busy_seconds == 25.0
    assert summary.elapsed_seconds == 86415.0


def test_a_task_that_runs_again_is_not_done() -> None:
    key = "register/z000000-y0000000-x0000000"
    summary = summarise_ledger([ended(key, Outcome.STALE)], sections=2, windows=(1, 1), window=(8, 8), depth=2)
    assert (summary.window_codes == NOT_DONE).all()


def test_an_empty_ledger() -> None:
    summary = summarise_ledger([], sections=2, windows=(1, 1), window=(1, 1), depth=1)
    assert (summary.busy_seconds, summary.elapsed_seconds, summary.failed_count) == (0.0, 0.0, 0)
