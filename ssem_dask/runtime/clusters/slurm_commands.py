"""SLURM's own commands for the jobs of one name; the jobs of a run share a name that no other jobs have."""

import shutil
import subprocess
import time
from contextlib import suppress

from ssem_dask.errors import ConfigError

_TIMEOUT_S = 60  # a busy controller answers late
_ENDED_STATES = {"COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY"}


def require_commands() -> None:
    """Raise ConfigError unless SLURM is installed here.

    Raises:
        ConfigError: a command is missing.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"--cluster slurm: {', '.join(missing)} not found on this machine; run on a login node or inside a job of "
            "a SLURM cluster, or use --cluster local."
        )


def live_jobs(name: str) -> dict[str, str] | None:
    """Return the states of the waiting and running jobs of a name by id; None if the controller did not answer."""
    try:
        answer = _run("squeue", "--noheader", f"--name={name}", "--format=%i %T")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return None
    pairs = (line.split() for line in answer.stdout.splitlines() if line.strip())
    return {pair[0]: pair[1] for pair in pairs if pair[1] not in _ENDED_STATES}


def cancel_jobs(name: str, *, seconds: float) -> bool:
    """Cancel the jobs of a name and wait until none is left; return False if some remain after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        live = live_jobs(name)
        if live == {}:
            return True
        if time.monotonic() > deadline:
            return False
        with suppress(OSError, subprocess.TimeoutExpired):
            _run("scancel", f"--name={name}")
        time.sleep(0.5)


def refuse_unacceptable(script: str) -> None:
    """Raise ConfigError if SLURM would refuse a job script.

    Raises:
        ConfigError: gives SLURM's reason.
    """
    answer = _run("sbatch", "--test-only", stdin=script)
    if answer.returncode:
        lines = [line for line in (answer.stderr + answer.stdout).splitlines() if line.strip()]
        reason = "; ".join(line.removeprefix("sbatch: error: ").strip() for line in lines)
        raise ConfigError(f"--cluster slurm: SLURM refuses the job ({reason}); fix [cluster.slurm].")


def _run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
