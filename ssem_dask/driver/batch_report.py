"""Report of a batch of appended sections: one line for people, one for programs, sent to whoever wants to know.

So a bad section can be imaged again as long as its wafer is in the microscope.
"""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssem_dask.errors import ConfigError
from ssem_dask.shown import without_secrets
from ssem_dask.units import plural, shortened

_SECONDS = 30.0
"""Time that a command or a server has."""
_SHOWN = 12
_WEB = ("http://", "https://")


def sentence(record: Mapping[str, Any]) -> str:
    """Return a batch in one line."""
    first, last = record["appended"]
    new = f"sections {first} to {last - 1} appended" if last > first else "no section was new"
    attention = [f"{each['z']} ({each['kind']})" for each in record["attention"]]
    look = (
        f"{plural(len(attention), 'section')} of those that are not locked "
        f"{'needs' if len(attention) == 1 else 'need'} a look: {shortened(attention, limit=_SHOWN)}"
        if attention
        else "none of those that are not locked needs a look"
    )
    failed = f"; {plural(len(record['failed']), 'chunk')} failed" if record["failed"] else ""
    return f"{record['output']}: {record['state']}; {new}, 0 to {record['final'] - 1} are final; {look}{failed}"


def refuse_unusable(targets: Sequence[str]) -> None:
    """Raise ConfigError if a target of `--notify` is a URL that is neither http nor https, or empty."""
    for target in targets:
        if not target.strip() or ("://" in target.split()[0] and not target.startswith(_WEB)):
            raise ConfigError(f"--notify {target}: is neither a command nor a URL with http or https; give one.")


def notify_all(targets: Sequence[str], record: Mapping[str, Any]) -> Iterator[str]:
    """Send a record to each target; yield a sentence for each that did not take it.

    Args:
        targets: commands, which get the record as a line on their standard input, and URLs, to which it is posted.
        record: JSON values.
    """
    content = (json.dumps(record) + "\n").encode()
    for target in targets:
        try:
            (_post if target.startswith(_WEB) else _call)(target, content)
        except (OSError, ValueError, subprocess.SubprocessError, urllib.error.URLError) as error:
            yield f"--notify {without_secrets(target)}: the batch was not reported ({_reason(error)})."


def _post(url: str, content: bytes) -> None:
    request = urllib.request.Request(url, data=content, headers={"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=_SECONDS):
        pass


def _call(command: str, content: bytes) -> None:
    subprocess.run(command, input=content, shell=True, check=True, timeout=_SECONDS, stdout=subprocess.DEVNULL)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no end within {_SECONDS:.0f} s"
    return without_secrets(str(error))
