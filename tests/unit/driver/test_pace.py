from ssem_dask.driver.pace import KEPT, pace_of, with_batch


def test_the_pace_is_that_of_the_batches_that_are_remembered() -> None:
    batches = [("2026-01-01T00:00:00+00:00", 40, 900.0), ("2026-01-01T01:00:00+00:00", 45, 60.0)]
    assert pace_of(batches[:1]) is None
    batches.append(("2026-01-01T02:00:00+00:00", 60, 120.0))
    pace = pace_of(batches)
    assert pace is not None
    assert (pace.sections, pace.hours, pace.per_hour, pace.seconds, pace.keeps_up) == (20, 2.0, 10.0, 90.0, True)
    assert "keeps up" in pace.sentence()
    slow = pace_of([(when, sections, 9000.0) for when, sections, _ in batches])
    assert slow is not None
    assert not slow.keeps_up


def test_old_batches_are_forgotten() -> None:
    batches = [("2026-01-01T00:00:00+00:00", 1, 1.0)] * KEPT
    assert len(with_batch(batches, sections=9, seconds=2.04)) == KEPT
    assert with_batch([], sections=9, seconds=2.04)[0][1:] == (9, 2.0)
