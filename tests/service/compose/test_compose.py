"""The shipped docker-compose.yml: a phantom goes through S3 and comes back right whatever is killed meanwhile."""

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests

from ssem_dask.storage.arrays import open_array
from tests.service.compose.engine import Compose, health, inspect, python_in
from tests.support.browser import open_browser

OBSERVED, OUTPUT, SERIAL = "s3://data/observed.zarr", "s3://data/aligned.zarr", "s3://data/serial.zarr"
ALIGN = ("ssem-dask", "align", OBSERVED, OUTPUT, "--config", "/work/run.toml")
RERUN = ("ssem-dask", "rerun", OUTPUT, "--failed")

LISTENING = """
import pathlib, socket, ssl
ports = set()
for name in ("tcp", "tcp6"):
    for line in pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        host, port = address.split(":")
        if state == "0A" and not host.endswith("7F") and host != "0100007F" and host != "0" * 24 + "01000000":
            ports.add(int(port, 16))
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for port in sorted(ports):
    try:
        with socket.create_connection((socket.gethostbyname(socket.gethostname()), port), 1) as plain:
            secured = context.wrap_socket(plain)
            said = secured.recv(1)
        print(port, "said something to a stranger" if said else "closed")
    except ssl.SSLError as error:
        print(port, "tls" if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error) else error)
    except OSError as error:
        print(port, "open", error)
"""

TEAR = f"""
from ssem_dask.storage.location import read_bytes, write_bytes
chunk = "{OBSERVED}/0/c/9/0/0"
whole = read_bytes(chunk)
write_bytes("s3://data/whole", whole)
write_bytes(chunk, whole[: len(whole) // 2])
"""
MEND = f"""
from ssem_dask.storage.location import read_bytes, write_bytes
write_bytes("{OBSERVED}/0/c/9/0/0", read_bytes("s3://data/whole"))
"""

SAME = f"""
import numpy as np
from ssem_dask.storage.arrays import open_array
for name in ("fields/section", "aligned/0"):
    a, b = (np.asarray(open_array(f"{{url}}/{{name}}", mode="r")[:]) for url in ("{OUTPUT}", "{SERIAL}"))
    assert np.isfinite(a).any() and a.std() > 0
    np.testing.assert_array_equal(a, b)
print("same")
"""


def until(condition: Callable[[], bool], *, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def observed(compose: Compose) -> str:
    """A phantom in the store, and beside it what a serial run makes of it."""
    simulate = f"ssem-dask simulate phantom {OBSERVED} --seed 3 --sections 10 --size 160"
    serial = f"ssem-dask align {OBSERVED} {SERIAL} --config /work/run.toml --cluster serial"
    compose.client("sh", "-c", f"{simulate} && {serial}")
    return OBSERVED


def test_nothing_starts_without_secrets(compose: Compose) -> None:
    refused: subprocess.CompletedProcess[str] = compose.refused  # type: ignore[attr-defined]
    assert refused.returncode != 0
    assert "secrets.sh" in refused.stderr


def test_secrets_are_private_new_and_never_replaced(compose: Compose) -> None:
    files = {path.name: path for path in (compose.folder / "secrets").iterdir()}
    assert sorted(files) == ["aws_credentials", "ca.pem", "cert.pem", "key.pem", "s3.json"]
    for name in ("aws_credentials", "key.pem", "s3.json"):
        assert stat.S_IMODE(files[name].stat().st_mode) == 0o600
    before = {name: path.read_bytes() for name, path in files.items()}
    subprocess.run(["deploy/compose/secrets.sh"], cwd=compose.folder, env=compose.environment, check=True)
    assert {name: path.read_bytes() for name, path in files.items()} == before
    key = json.loads(before["s3.json"])["identities"][0]["credentials"][0]["secretKey"]
    assert len(key) == 40
    assert key in before["aws_credentials"].decode()


def test_chunks_that_failed_are_done_again_though_a_worker_and_the_scheduler_die(
    compose: Compose, observed: str, tmp_path: Path
) -> None:
    failed = compose.client("sh", "-c", f"python -c '{TEAR}' && {' '.join(ALIGN)} --json", check=False)
    assert failed.returncode == 1, failed.stderr
    assert [report["key"] for report in json.loads(failed.stdout)["failed"]] == ["coarse/pairs-z000008"]

    log = tmp_path / "client.log"
    client = compose.start_client("sh", "-c", f"python -c '{MEND}' && exec {' '.join(RERUN)}", log=log)
    until(lambda: "coarse: " in log.read_text())
    subprocess.run(["docker", "kill", compose.containers("worker")[0]], check=True, stdout=subprocess.DEVNULL)
    until(lambda: "register: " in log.read_text())
    subprocess.run(["docker", "kill", *compose.containers("scheduler")], check=True, stdout=subprocess.DEVNULL)
    assert client.poll() is None, log.read_text()
    time.sleep(3)
    compose.up(workers=2)
    first = client.wait(timeout=400)
    assert first == 0 or (first == 2 and "Lost connection to the scheduler; restart it" in log.read_text()), (
        log.read_text()
    )

    ended = compose.client(*RERUN, "--json")
    summary = json.loads(ended.stdout)
    assert summary["state"] == "complete"
    assert summary["failed"] == []
    events = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    begun = {event["stage"]: event["done"] for event in events if event["event"] == "stage_started"}
    assert begun["coarse"] > 0  # what the first run had done was not done again
    assert "same" in compose.client("python", "-c", SAME).stdout


def test_a_run_in_the_store_is_read_in_the_browser_and_taken_out(compose: Compose, observed: str) -> None:
    with compose.page("report", SERIAL) as address, open_browser() as browser:
        assert address.startswith("http://127.0.0.1:18790/")
        page = browser.new_page()
        assert page.goto(address.partition("?")[0]).text() != ""  # type: ignore[union-attr]
        assert page.locator("#verdict").count() == 0, "shown without the key"
        page.goto(address)
        page.wait_for_function("document.body && document.body.dataset.ready === 'true'")
        assert "aligned" in page.locator("#verdict").inner_text().lower()
        assert SERIAL in page.locator("h1 + .path").inner_text()
        assert page.locator("#reslice-charts canvas").count() == 4
        assert "http://127.0.0.1:18791" in page.content()  # links lead to the service `view`
    written = compose.folder / "out" / "serial.report.html"
    assert SERIAL in written.read_text()

    with compose.page("view", SERIAL) as address:
        key = address.partition("key=")[2]
        assert requests.get(address, timeout=30).status_code == 200
        assert requests.get(f"http://127.0.0.1:18791/v/{key}/", timeout=30).status_code == 200
        renamed = requests.get(address, timeout=30, headers={"Host": "rebound.example"})
        assert renamed.status_code == 403

    compose.client("ssem-dask", "export", SERIAL, "out/taken.zarr", "--ngff", "0.4")
    taken = np.asarray(open_array(str(compose.folder / "out" / "taken.zarr" / "0"), mode="r")[:])
    assert taken.shape == (10, 160, 160)
    assert taken.std() > 0


def test_strangers_are_refused_by_scheduler_and_store(compose: Compose, observed: str) -> None:
    align = " ".join(ALIGN)
    nothing = "SSEM_DASK_TLS= DASK_DISTRIBUTED__COMM__TLS__CA_FILE="
    guessed = "AWS_SHARED_CREDENTIALS_FILE= AWS_ACCESS_KEY_ID=stranger AWS_SECRET_ACCESS_KEY=guessed"
    commands = (f"{nothing} {align}", f"{align} --cluster tcp://scheduler:8786", f"{guessed} {align}")
    ended = compose.client("sh", "-c", " ".join(f"({command}; echo $?) &" for command in commands) + " wait")
    assert ended.stdout.split() == ["2", "2", "2"], ended.stderr
    assert "needs certificates" in ended.stderr
    assert "speaks TLS; write tls://scheduler:8786" in ended.stderr


@pytest.mark.parametrize(("service", "open_ports"), [("worker", set()), ("scheduler", {8787})])
def test_strangers_are_answered_by_the_dashboard_alone(compose: Compose, service: str, open_ports: set[int]) -> None:
    found = dict(line.split(" ", 1) for line in python_in(compose.containers(service)[0], LISTENING).splitlines())
    # Docker's own name server answers inside each container at 127.0.0.11, which is not counted here.
    assert {int(port) for port, said in found.items() if said != "tls"} == open_ports, found
    assert any(said == "tls" for said in found.values())


def test_only_the_dashboard_leaves_the_machine_inside(compose: Compose) -> None:
    published = {}
    for container in compose.containers():
        described = inspect(container)
        for port, places in described["NetworkSettings"]["Ports"].items():
            for place in places or []:
                published[port] = place["HostIp"]
    assert published == {"8787/tcp": "127.0.0.1"}
    (network,) = inspect(compose.containers("worker")[0])["NetworkSettings"]["Networks"]
    shown = subprocess.run(["docker", "network", "inspect", network], text=True, capture_output=True, check=True)
    assert json.loads(shown.stdout)[0]["Internal"] is True


def test_containers_of_ours_have_no_more_than_they_need(compose: Compose) -> None:
    for service in ("scheduler", "worker"):
        described = inspect(compose.containers(service)[0])
        host = described["HostConfig"]
        assert described["Config"]["User"] == "1000:1000"
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["Memory"] == 4 << 30
        assert not any("key" in word.lower() and "/" not in word for word in described["Config"]["Env"])
    assert host["NanoCpus"] == 10**9


def test_a_worker_that_dies_is_started_again(compose: Compose) -> None:
    worker = compose.containers("worker")[0]
    before = inspect(worker)
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    until(lambda: inspect(worker)["RestartCount"] == before["RestartCount"] + 1)
    until(lambda: health(worker) == "healthy")


def test_gpus_are_an_override(compose: Compose) -> None:
    shown = compose("-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml", "config").stdout
    assert "driver: nvidia" in shown
    assert "assign_gpu" in shown
