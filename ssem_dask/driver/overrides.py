"""Changes of a configuration, given as `table.key=value`: for a whole run, or for a few of its tasks alone.

A change for a few tasks may decide how they compute, for example in how small windows, but not where their results lie:
the others' results stay beside theirs in the same arrays.
"""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import RunConfig, make_config
from ssem_dask.errors import ConfigError
from ssem_dask.stages.downsample import DownsampleTask
from ssem_dask.stages.job import Job
from ssem_dask.stages.render import RenderTask, own_warping
from ssem_dask.task import Task

_LAYOUT = (
    "source",
    "output",
    "volume.",
    "coarse.neighbours",
    "mask.",
    "register.neighbours",
    "register.spacing",
    "register.sections",
    "compose.method",
    "compose.chain.block",
    "compose.chain.stitch",
    "compose.relax.window",
    "compose.relax.neighbours",
    "compose.relax.keep_natural",
    "render.chunk",
    "render.shard",
    "downsample.",
)
"""Keys, or tables, that decide where results lie or what tasks there are."""
_ELSEWHERE = ("source", "output", "cluster")
"""Keys that name another run, or the place where it runs."""


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Read `table.key=value` words; values are TOML, and what is no TOML is text.

    Raises:
        ConfigError: a word is not of that form, or changes what makes it another run.
    """
    changes = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise ConfigError(
                f"--set {word}: is not of the form table.key=value; write for example register.window=1024."
            )
        if key.split(".")[0] in _ELSEWHERE:
            raise ConfigError(f"--set {word}: '{key}' cannot be changed in a run that is there; start another run.")
        try:
            changes[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key] = text.strip()
    return changes


def changed_config(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    """The configuration `tree` with some values changed.

    Raises:
        ConfigError: a key is unknown or a value out of range.
    """
    changed = copy.deepcopy(dict(tree))
    for key, value in changes.items():
        *tables, last = key.split(".")
        place = changed
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {key}: '{table}' is a value, not a table; see docs/configuration.md.")
        place[last] = value
    return make_config(changed, where="--set" if changes else "Config")


def refuse_layout(changes: Mapping[str, Any]) -> None:
    """ConfigError where a change that is meant for some tasks alone decides where results lie."""
    for key in changes:
        if any(key == fixed or (fixed.endswith(".") and key.startswith(fixed)) for fixed in _LAYOUT):
            raise ConfigError(
                f"--set {key}: decides where results lie, so it cannot hold for some chunks alone; "
                "leave out --failed, --cause, --stage, --sections and --chunk to change the whole run."
            )


class Tailor:
    """Gives tasks whose ledger entry carries changes the configuration that they ask for."""

    def __init__(self, job: Job, tree: Mapping[str, Any]) -> None:
        """Remember the run's job, and the configuration tree that it was resolved from."""
        self._job = job
        self._tree = tree
        self._jobs: dict[tuple[tuple[str, Any], ...], Job] = {}

    def __call__(self, task: Task) -> Task:
        """The task with its own job; ConfigError where its changes do not fit the run any more."""
        if not task.changes:
            return task
        changes = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in task.changes)
        if changes not in self._jobs:
            own, _ = resolve(changed_config(self._tree, dict(task.changes)))
            self._jobs[changes] = replace(own, output=self._job.output, digests=self._job.digests, mips=self._job.mips)
        job = self._jobs[changes]
        if isinstance(task, RenderTask | DownsampleTask):
            return replace(task, warping=own_warping(job))
        return replace(task, job=job)  # type: ignore[call-arg]  # every other stage's tasks carry their job
