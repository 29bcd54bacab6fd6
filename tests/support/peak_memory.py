"""The memory that some lines of Python take at their peak, measured in a process of their own."""

import subprocess
import sys
import textwrap


def peak_growth(lines: str) -> int:
    """Return by how many bytes the peak memory of a process grows from the lines' call of `begin()` to their end."""
    program = textwrap.dedent("""
        import resource
        start = 0
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        def begin():
            global start
            start = peak()
    """)
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\n{textwrap.dedent(lines)}\nprint(peak() - start)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1])
