"""Everything that a worker needs to run tasks; imported before workers are forked (`fork_server`)."""

import gc
from importlib import import_module

_MODULES = (
    "distributed.http.worker",
    "distributed.nanny",
    "distributed.worker",
    "scipy.fft",
    "scipy.ndimage",
    "scipy.optimize",
    "ssem_dask.driver.integrity",
    "ssem_dask.runtime.clusters.warm_gpu",
    "ssem_dask.runtime.distributed",
    "ssem_dask.runtime.exclusive_driver",
    "ssem_dask.runtime.execute",
    "ssem_dask.runtime.quiet_worker",
    "ssem_dask.stages.pipeline_order",
    "ssem_dask.storage.codec_pipeline",
)
for _name in _MODULES:
    import_module(_name)
# What exists now is never freed, so a collection in a worker need neither look at it nor copy its pages.
gc.collect()
gc.freeze()
