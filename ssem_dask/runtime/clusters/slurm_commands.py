"""SLURM's own commands, for the jobs of one name; a run's jobs share a name that no other jobs have."""

import shutil
import subprocess
import time
from contextlib import suppress

from ssem_dask.errors import ConfigError

_SECONDS = 60  # a busy controller answers late
_OVER = {"COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY"}


def require_commands() -> None:
    """Make sure that SLURM is here.

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
    """State of the jobs of a name that wait or run, by job id; None if the controller did not answer."""
    try:
        asked = _run("squeue", "--noheader", f"--name={name}", "--format=%i %T")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode:
        return None
    pairs = (line.split() for line in asked.stdout.splitlines() if line.strip())
    return {pair[0]: pair[1] for pair in pairs if pair[1] not in _OVER}


def cancel_jobs(name: str, *, seconds: float) -> bool:
    """Cancel the jobs of a name and wait until none is left; False if some still are after `seconds`."""
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
    """Ask SLURM whether it would take a job script.

    Raises:
        ConfigError: it would not; gives SLURM's reason.
    """
    asked = _run("sbatch", "--test-only", given=script)
    if asked.returncode:
        lines = [line for line in (asked.stderr + asked.stdout).splitlines() if line.strip()]
        reason = "; ".join(line.removeprefix("sbatch: error: ").strip() for line in lines)
        raise ConfigError(f"--cluster slurm: SLURM refuses the job ({reason}); mend [cluster.slurm].")


def _run(*command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=_SECONDS)
