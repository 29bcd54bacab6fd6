"""Workers of this machine are forked from a process that has imported what they need, and start at once."""

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys, threading
from ssem_dask.runtime.fork_server import start_fork_server

def seen(_=None):
    import os, signal
    with open("/proc/self/task/%d/status" % os.getpid()) as status:  # the main thread, to which signals go first
        mask = int(next(line for line in status if line.startswith("SigBlk")).split()[1], 16)
    blocked = [number.name for number in (signal.SIGINT, signal.SIGTERM) if mask >> number - 1 & 1]
    return "torch" in sys.modules, "ssem_dask.stages.register" in sys.modules, os.environ["OMP_NUM_THREADS"], *blocked

def server_blocks():
    import signal
    from multiprocessing import forkserver
    with open("/proc/%d/status" % forkserver._forkserver._forkserver_pid) as status:
        mask = int(next(line for line in status if line.startswith("SigBlk")).split()[1], 16)
    return [number.name for number in (signal.SIGINT, signal.SIGTERM) if mask >> number - 1 & 1]

if __name__ == "__main__":
    start_fork_server()
    assert "torch" not in sys.modules and "distributed" not in sys.modules
    from ssem_dask.runtime.clusters.local import start_local
    with start_local(2) as executor:
        print(set(executor.client.run(seen).values()), "bokeh" in sys.modules, "pandas" in sys.modules)
        print(server_blocks())
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
        "{(True, True, '1', 'SIGINT')} False False",
        "['SIGINT', 'SIGTERM']",
        "metrics 200 True",
        "status 200 True",
        "workers 200 True",
        "True",
    ]
