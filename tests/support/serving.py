"""A server of the package in a thread of its own."""

import asyncio
import threading
from dataclasses import dataclass

from ssem_dask.report.viewer.http import Site, ViewerServer
from ssem_dask.report.viewer.loopback_server import LoopbackServer


@dataclass
class Serving:
    """A server in a thread of its own."""

    site: Site | LoopbackServer
    port: int = 0
    address: str = "127.0.0.1"

    def __enter__(self) -> str:
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        async def serve() -> None:
            self._stop = asyncio.Event()
            server = ViewerServer(self.site) if isinstance(self.site, Site) else self.site
            self.port = server.start(port=0, address=self.address)
            self._ready.set()
            await self._stop.wait()
            server.stop()

        self._loop.run_until_complete(serve())
        self._loop.close()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
