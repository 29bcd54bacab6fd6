"""Zarr's fused codec pipeline (zarr >= 3.3), used while our own code opens, reads or writes arrays.

It codes the chunks of a window in one go instead of in one coroutine each: twice as fast (docs/performance.md). Zarr
selects a pipeline in two places: when an array object is made, for the array itself, and at every access of an array in
a remote store, for the chunks inside a shard. So `open_array` and `create_array` use the context below, and so does
whatever then reads or writes many shards: `Volume`, and every task as a whole.

The selection is global to the process. Importing this package leaves it alone, and after the last use the process that
imported us has its own selection again.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import zarr
import zarr.core.codec_pipeline

_SETTING = "codec_pipeline.path"
_DEFAULT = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
_VARIABLE = "ZARR_CODEC_PIPELINE__PATH"


class _SharedSelection:
    """The selection of the fused pipeline, shared by overlapping uses in several threads.

    `zarr.config.set` as a context would not do: two uses that overlap would leave the later one's selection behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses = 0
        self._selected = False

    def acquire(self) -> None:
        """Select the pipeline if this is the first use, and the user has selected none."""
        with self._lock:
            if self._uses == 0 and self._is_wanted():
                zarr.config.set({_SETTING: _FUSED})
                self._selected = True
            self._uses += 1

    def release(self) -> None:
        """Restore the default if this was the last use."""
        with self._lock:
            self._uses -= 1
            if self._uses == 0 and self._selected:
                zarr.config.set({_SETTING: _DEFAULT})
                self._selected = False

    @staticmethod
    def _is_wanted() -> bool:
        exists = hasattr(zarr.core.codec_pipeline, _FUSED.rpartition(".")[2])
        return exists and _VARIABLE not in os.environ and zarr.config.get(_SETTING) == _DEFAULT


_SELECTION = _SharedSelection()


@contextmanager
def fused_codecs() -> Iterator[None]:
    """Use the fused codec pipeline inside the context, unless zarr has none or the user has selected another."""
    _SELECTION.acquire()
    try:
        yield
    finally:
        _SELECTION.release()
