"""The mean of what was fitted to windows of sections, where some of their tasks failed."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.errors import OutputError
from ssem_dask.stages.compose.statistics import fitted_windows, mean_spectra, write_spectra
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import spectrum_fit
from ssem_dask.storage.json_records import read_record, write_record
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import VolumeInfo, create_volume

WINDOW = 16


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = str(tmp_path / "source.zarr")
    info = VolumeInfo(shape=(3 * WINDOW, 64, 64), dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    create_volume(source, info=info, chunk=(1, 64, 64), shard=(1, 64, 64), mips=1)
    tree = {"source": source, "output": str(tmp_path / "out.zarr"), "compose": {"relax": {"window": WINDOW}}}
    job = plan(make_config(tree, where="test")).job
    create_run(job.output, attributes={})
    return job


def variances(distortion: float) -> Variances:
    return Variances(distortion=distortion, motion=1.0, correlation=0.8, noise=0.1, erratic=0.2)


def test_the_mean_is_of_all_windows_that_have_a_fit(job: Job) -> None:
    assert fitted_windows(job) == [0, 1, 2]
    for window, distortion in ((0, 1.0), (2, 4.0)):  # the task of window 1 failed
        write_spectra(job, window, {"variances": [variances(distortion), variances(2 * distortion)]})
    assert [v.distortion for v in mean_spectra(job, "variances")] == [2.5, 5.0]
    assert mean_spectra(job, "high_frequency") == []


def test_a_fit_of_another_configuration_does_not_count(job: Job) -> None:
    write_spectra(job, 0, {"variances": [variances(1.0)]})
    url = spectrum_fit(0).url(job)
    older = {**read_record(url), "digest": "another", "variances": [asdict(variances(9.0))] * 3}
    write_record(spectrum_fit(1).url(job), older)
    assert [v.distortion for v in mean_spectra(job, "variances")] == [1.0]
    write_record(url, older)
    with pytest.raises(OutputError, match="not fitted to any window"):
        mean_spectra(job, "variances")
