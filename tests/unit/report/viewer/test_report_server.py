"""A report that is served: to the holder of its key alone, on the address that is asked for."""

import pytest
import requests

from ssem_dask.errors import ConfigError
from ssem_dask.report.viewer.report_server import ReportServer
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.serving import Serving

PAGE = "<!doctype html><title>pixels of a volume</title>"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_the_page_is_for_the_holder_of_the_key_under_a_name_of_loopback(address: str) -> None:
    server = ReportServer(PAGE)
    with Serving(server, address=address) as base:
        shown = requests.get(f"{base}/report/{server.key}", timeout=10)
        assert shown.text == PAGE
        assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
        assert f"/report/{server.key}" in requests.get(f"{base}/?key={server.key}", timeout=10).text
        refused = [
            requests.get(f"{base}/report/{'0' * 64}", timeout=10),
            requests.get(f"{base}/", timeout=10),
            requests.get(f"{base}/?key=guessed", timeout=10),
            requests.get(f"{base}/report/{server.key}", timeout=10, headers={"Host": "rebound.example"}),
            requests.get(f"{base}/report/{server.key}", timeout=10, headers={"Origin": "http://127.0.0.2:8000"}),
        ]
        assert [answer.status_code for answer in refused] == [403] * len(refused)
        assert not any("pixels" in answer.text for answer in refused)


def test_an_address_that_no_interface_has_is_refused() -> None:
    for address in ("203.0.113.1", "nobody.invalid"):
        with pytest.raises(ConfigError, match=f"--listen {address}: no interface"):
            ReportServer(PAGE).start(port=0, address=address)


def test_options_of_serving_without_it_are_refused() -> None:
    assert_one_sentence(command("report", "none.zarr", "--port", "1"), naming="--serve")
