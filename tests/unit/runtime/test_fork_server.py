"""Workers of this machine are forked from a process that has imported what they need, and start at once."""

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys, threading
from ssem_dask.runtime.fork_server import start_fork_server

def seen(_=None):
    import os, signal
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    return "torch" in sys.modules, "ssem_dask.stages.register" in sys.modules, os.environ["OMP_NUM_THREADS"], blocked

if __name__ == "__main__":
    start_fork_server()
    assert "torch" not in sys.modules and "distributed" not in sys.modules
    from ssem_dask.runtime.clusters.local import start_local
    with start_local(2) as executor:
        print(set(executor.client.run(seen).values()), "bokeh" in sys.modules, "pandas" in sys.modules)
        import urllib.request
        for page in ("metrics", "status", "workers"):
            with urllib.request.urlopen(executor.dashboard.replace("status", page)) as answer:
                print(page, answer.status, len(answer.read()) > 100)
        print("bokeh" in sys.modules)
"""


def test_workers_have_everything_and_the_dashboard_is_loaded_on_request(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "{(True, True, '1', True)} False False",
        "metrics 200 True",
        "status 200 True",
        "workers 200 True",
        "True",
    ]
