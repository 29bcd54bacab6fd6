"""Overrides of configuration values, written as `table.key=value`, for a whole run or for some of its tasks alone.

An override for some tasks may decide how they compute, for example the side of their windows. It cannot decide where
their results are stored, because the results of all tasks share the same arrays.
"""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import RunConfig, make_config
from ssem_dask.errors import ConfigError
from ssem_dask.stages.job import Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.stage import JobTask
from ssem_dask.task import Task

_FIXED_TABLES = ("source", "output", "cluster")
"""Top-level keys that name another run, or the place where it runs."""


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `table.key=value` words; a value that is not TOML is text.

    Raises:
        ConfigError: a word does not have that form, or changes a key that identifies the run.
    """
    overrides = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise ConfigError(
                f"--set {word}: must have the form table.key=value; write for example register.window=1024."
            )
        if key.split(".")[0] in _FIXED_TABLES:
            raise ConfigError(f"--set {word}: '{key}' cannot be changed in an existing run; start another run.")
        try:
            overrides[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            overrides[key] = text.strip()
    return overrides


def with_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> RunConfig:
    """Return the configuration `tree` with some of its values replaced.

    Raises:
        ConfigError: a key is unknown or a value out of range.
    """
    overridden = copy.deepcopy(dict(tree))
    for key, value in overrides.items():
        *tables, last = key.split(".")
        branch = overridden
        for table in tables:
            branch = branch.setdefault(table, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"--set {key}: '{table}' is a value, not a table; see docs/configuration.md.")
        branch[last] = value
    return make_config(overridden, where="--set" if overrides else "Config")


def refuse_layout_overrides(overrides: Mapping[str, Any]) -> None:
    """Raise ConfigError if an override for some tasks alone decides where results are stored."""
    for key in overrides:
        if _decides_layout(key):
            raise ConfigError(
                f"--set {key}: decides where results are stored, so it cannot hold for some chunks alone; "
                "leave out --failed, --cause, --stage, --sections and --chunk to change the whole run."
            )


def _decides_layout(key: str) -> bool:
    """Return whether a dotted key decides where results are stored or which tasks there are."""
    table, _, name = key.partition(".")
    if table in ("source", "output", "volume", "slabs"):
        return True
    stage = next((stage for stage in STAGES if stage.name == table and stage.config_type is not None), None)
    return stage is not None and (not stage.layout_keys or name in stage.layout_keys)


class TaskOverrides:
    """Applies the overrides in ledger entries to the tasks of these entries."""

    def __init__(self, job: Job, tree: Mapping[str, Any]) -> None:
        """Take the run's job, and the configuration tree that it was resolved from."""
        self._job = job
        self._tree = tree
        self._jobs: dict[tuple[tuple[str, Any], ...], Job] = {}

    def __call__(self, task: Task) -> Task:
        """Return the task with its overrides applied; raise ConfigError if they no longer fit the run."""
        if not task.changes:
            return task
        overrides = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in task.changes)
        if overrides not in self._jobs:
            job, _ = resolve(with_overrides(self._tree, dict(task.changes)))
            # The digests stay those of the run: they say whether an entry is current, overridden or not.
            self._jobs[overrides] = replace(
                job,
                output=self._job.output,
                digests=self._job.digests,
                mips=self._job.mips,
                fixes=self._job.fixes,
                fitted_fixes=self._job.fitted_fixes,
            )
        job = self._jobs[overrides]
        assert isinstance(task, JobTask)  # only the tasks of a run have entries with overrides
        return task.with_job(job)
