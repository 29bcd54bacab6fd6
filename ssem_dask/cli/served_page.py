"""Pages that a command serves until it is stopped, as `view` and `fix` do."""

import asyncio
import contextlib
import signal
import tempfile
import webbrowser
from pathlib import Path

from ssem_dask.cli import console


async def serve_until_stopped(address: str, *, port: int, print_url: bool, as_json: bool) -> None:
    """Open a page in the browser and wait for Ctrl-C, or for the signal to end.

    Args:
        address: of the page, with its key.
        port: on which it is served.
        print_url: start no browser, and say how to reach the page over ssh.
        as_json: start no browser.
    """
    console.out.file.flush()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    with contextlib.ExitStack() as cleanup:
        if print_url:
            console.note(f"From another machine: ssh -L {port}:127.0.0.1:{port} this-machine, then open the address.")
        elif not as_json and not _open_browser(address, cleanup):
            console.note("No browser could be started; open the address in one.")
        console.note("Serving; Ctrl-C stops it.")
        await stopped.wait()


def _open_browser(address: str, cleanup: contextlib.ExitStack) -> bool:
    """Start a browser at an address that other users must not see; return whether one was started.

    The arguments of a process are public, so the browser gets a file that leads to the address.
    """
    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ssem-dask-view-"))  # mode 0700
    page = Path(folder) / "open.html"
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    return webbrowser.open(page.as_uri())
