"""Errors that a user can cause or fix.

Every message is one clear sentence: what, where, got, wanted, what to do. The command line prints it without a
traceback and exits with code 2. Anything that is not a `SsemDaskError` is a bug and shows its traceback. Each class is
also the builtin exception that a caller would expect.
"""

from ssem_dask.shown import redacted


class SsemDaskError(Exception):
    """Base of all errors that a user can fix; no secret of a URL is in its message."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redacted(each) if isinstance(each, str) else each for each in arguments))


class ConfigError(SsemDaskError, ValueError):
    """A configuration value is unknown, misspelt or out of range."""


class SourceError(SsemDaskError, ValueError):
    """The input volume is missing, unreadable or not what an alignment can use."""


class ContentError(SourceError):
    """Stored content that can be reached, but is damaged or of another kind than it should be."""


class OutputError(SsemDaskError, OSError):
    """The output cannot be written, or belongs to something else."""


class LayoutError(OutputError):
    """An array exists already, with another layout than the one to be written."""

    def __init__(self, url: str, message: str) -> None:
        super().__init__(message)
        self.url = url


class LeaseLostError(OutputError):
    """Another process has taken the output over, or the output was removed while it was written."""


class IncompleteError(SsemDaskError, RuntimeError):
    """The work has ended, but its result is not complete; the same command completes it."""


class ConventionError(SsemDaskError, ValueError):
    """A stored array does not carry the conventions that its reader relies on."""


class WeightsError(SsemDaskError, ValueError):
    """Encoder weights are missing, of the wrong kind, or not the ones that were asked for."""


class ClusterError(SsemDaskError, ConnectionError):
    """The cluster was lost in the middle of a run; finished work is kept."""


class MissingExtraError(SsemDaskError, ImportError):
    """An optional dependency is not installed."""


class PlanError(SsemDaskError, ValueError):
    """A plan cannot be executed: two tasks would write one file, or a measurement is not in the table that shows it."""
