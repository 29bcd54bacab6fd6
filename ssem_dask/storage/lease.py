"""The lease of an output: one process at a time may write there, and whoever was replaced finds out before it writes.

A lease is a folder of *claims*, the files `00000001`, `00000002` and so on. A claim is created exclusively, with the
name of its holder in it, and never changed afterwards. The highest claim is the one that counts; its number is the
*generation* of what its holder writes. Beside it, `00000002.beat` is rewritten every few seconds while the holder
lives, and marked when it gives the lease back.

Laws:

- *Taking over* is to create the next number. Of several contenders one succeeds. Nothing is deleted for it, so no
  contender can remove the claim of another, and at no moment two holders have the highest number.
- *A holder has the lease* exactly as long as its claim exists with its own name in it, and no higher one does. No
  claim, or another name, means that the lease is lost: the output was removed, or others have used it since.
- Claims are deleted from the oldest on. So a claim below a deleted one is deleted too, and its holder has lost.

Another process

- is refused while the holder is alive;
- takes over at once from a dead process that it can look up (`storage.holder`);
- takes over from any other holder if its beat has not changed for `EXPIRY_S`. Only changes of the file are watched:
  clocks of different machines are never compared.

A holder that merely stalled (a suspended laptop, a network partition) is taken for dead. `Lease.check` is cheap: it
relies on the last beat for `VALID_S`, by a clock that counts the time of a suspension, and asks the store after that.
`Lease.confirm` always asks. A `Claim` is small and can be sent to workers, who ask by it for themselves.

Limits, for want of a store that refuses the writes of old generations:

- A write that was begun before the takeover may arrive after it. `runtime.exclusive_driver` has the consequences.
- A store without conditional writes (some S3 servers) lets two contenders create one number at the same time. The
  second overwrites the first, who finds another name in the claim when it next asks the store.
- On NFS, another machine may show a new claim late, until its cache of the folder has expired (`acdirmax`, a minute at
  most). A holder's own beat renews this cache.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ssem_dask.errors import LeaseLostError, OutputError
from ssem_dask.storage import location
from ssem_dask.storage.fence import fenced
from ssem_dask.storage.holder import LIVE_NAMES, Holder, parse_holder, this_process
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for

LEASE_PATH = ("ledger", "drivers.lease")
"""Folder of the lease in a run, and in a warped or exported volume."""
RENEWAL_S = 5.0
"""Seconds between two beats."""
EXPIRY_S = 30.0
"""Seconds without a beat after which a holder that cannot be looked up counts as dead."""
VALID_S = 20.0
"""Seconds after the begin of a beat for which the holder relies on it."""
_POLL_S = 0.5
"""Seconds between two looks at a lease whose holder may be dead."""
_ROUNDS = 12
"""Attempts to create a claim. More than two are needed only if the store contradicts itself."""
_KEPT_CLAIMS = 3
"""Claims that stay, beside that of the holder, so that a person can see who was at work."""
_DIGITS = 8
_BEAT = ".beat"
_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""The clock that counts a suspension; Linux only."""


class Clock(Protocol):
    """Time, as a lease needs it."""

    def now(self) -> float:
        """Return seconds since any moment, including those for which the machine was suspended."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def repeat(self, call: Callable[[], bool], *, every: float) -> Callable[[], None]:
        """Call a function every so many seconds until it returns False; return a function that ends this earlier."""
        ...


class SystemClock(Clock):
    """The clock of this machine; repeats in threads."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)

    def repeat(self, call: Callable[[], bool], *, every: float) -> Callable[[], None]:
        """See `Clock.repeat`; whoever ends it waits for a call that runs, but not for long."""
        ended = threading.Event()

        def calls() -> None:
            while not ended.wait(every) and call():
                pass

        thread = threading.Thread(target=calls, name="lease", daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            thread.join(timeout=every)

        return end


SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Claim:
    """One holder's right to write to an output, until another claim has a higher number."""

    url: str
    """Folder of the lease."""
    output: str
    """The output that the lease is for."""
    generation: int
    """Number of the claim; later holders have higher ones."""
    name: str
    """Name of the holder."""
    tag: str = ""
    """Tag of the content of the claim's file, see `location.list_tags`; empty if the store has none."""

    def confirm(self) -> None:
        """Raise LeaseLostError if the claim is no longer the one that counts; asks the store, often by one request."""
        with location.writing(self.output):
            found = location.list_tags(self.url)
            numbers = _numbers_in(found)
            if numbers and numbers[-1] > self.generation:
                successor = _read_claim(self.url, numbers[-1])
                who = "another process, which has ended since," if successor is None else str(successor)
                raise LeaseLostError(
                    f"{self.output}: {who} has taken it over, since this process had stopped renewing its lease; "
                    "no result is lost; wait for that process to finish."
                )
            if self.tag and found.get(_name(self.generation)) == self.tag:
                return
            own = _read_claim(self.url, self.generation)
            if own is None or own.name != self.name:
                raise LeaseLostError(
                    f"{self.output}: the output was removed while it was written; run the same command again to start "
                    "from nothing."
                )


class Lease:
    """A lease that is held; it is renewed until it is released."""

    def __init__(self, claim: Claim, *, clock: Clock, since: float, keep: bool) -> None:
        """Start to renew a lease that was taken at the time `since` of the clock; see `hold_lease`."""
        self.claim = claim
        self._clock = clock
        self._keep = keep
        self._beats = 0
        self._renewed = since
        self._loss: LeaseLostError | None = None
        self._is_released = False
        self._end = clock.repeat(self._beat, every=RENEWAL_S)

    def check(self) -> None:
        """Raise LeaseLostError if the lease is lost; asks the store only if the last beat is no longer valid."""
        if self._loss is not None:
            raise self._loss
        if self._clock.now() - self._renewed > VALID_S:
            self.confirm()

    def confirm(self) -> None:
        """Raise LeaseLostError if the lease is lost; asks the store."""
        try:
            self.claim.confirm()
        except LeaseLostError as error:
            self._loss = error
            raise

    def release(self) -> None:
        """Give the lease back, unless it is lost."""
        self._is_released = True
        self._end()
        LIVE_NAMES.discard(self.claim.name)
        with contextlib.suppress(OSError, OutputError), fenced(None):
            self.confirm()
            self._write_beat()
            if not self._keep:
                _delete_claims(self.claim.url, _numbers(self.claim.url))
                location.delete_empty_folder(self.claim.url)

    def _beat(self) -> bool:
        """Renew the lease; return False if it is lost."""
        began = self._clock.now()
        try:
            # The claim first: the folder of an output that was removed must not appear again.
            self.confirm()
            self._beats += 1
            self._write_beat()
            if self._is_released:
                self._write_beat()  # the one above may have arrived after that of the release
            # Another process waits from when it sees this beat, which is later.
            self._renewed = began
        except LeaseLostError:
            return False
        except Exception:  # noqa: BLE001  a store that fails now may answer at the next beat
            return True
        return True

    def _write_beat(self) -> None:
        content = json.dumps({"beats": self._beats, "released": self._is_released}).encode()
        location.write_bytes(_beat_url(self.claim.url, self.claim.generation), content)


@contextmanager
def hold_lease(
    url: str, *, output: str | None = None, keep: bool = True, clock: Clock = SYSTEM_CLOCK, holder: Holder | None = None
) -> Iterator[Lease]:
    """Hold the lease at `url` inside the context.

    Args:
        url: folder of the lease.
        output: what the lease is for, in messages; None: the folder above.
        keep: leave the last claim after the end, so that later ones have higher numbers.
        clock: time.
        holder: holder of the lease; None: this process.

    Raises:
        OutputError: another process is at work, or the location cannot be written.
    """
    holder = holder or this_process()
    output = output or location.parent(url) or url
    since = clock.now()
    # The lease is what fences ask, so it asks none.
    LIVE_NAMES.add(holder.name)  # before the claim exists: another thread of this process may look at it at once
    try:
        with location.writing(url), retry_for(LONG_RETRY_S), fenced(None):
            claim = _acquire(url, output=output, holder=holder, clock=clock)
    except BaseException:
        LIVE_NAMES.discard(holder.name)
        raise
    lease = Lease(claim, clock=clock, since=since, keep=keep)
    try:
        yield lease
    finally:
        lease.release()


def read_holder(url: str) -> Holder | None:
    """Return the holder of a lease; None if nobody holds it."""
    numbers = _numbers(url)
    if not numbers or _is_released(_read_beat(url, numbers[-1])):
        return None
    return _read_claim(url, numbers[-1])


def is_held(url: str) -> bool:
    """Return whether a holder seems to be alive, without waiting; one that cannot be looked up counts as alive."""
    holder = read_holder(url)
    return holder is not None and holder.known_alive() is not False


def _acquire(url: str, *, output: str, holder: Holder, clock: Clock) -> Claim:
    """Create the claim that counts.

    Raises:
        OutputError: another process is at work, or the store contradicts itself.
    """
    for round_ in range(_ROUNDS):
        if round_:
            clock.sleep(_POLL_S)
        known = _numbers(url)
        if known:
            _wait_for_end(url, known[-1], output=output, clock=clock)
        number = known[-1] + 1 if known else 1
        claim = Claim(url=url, output=output, generation=number, name=holder.name)
        if not location.create_bytes(_claim_url(url, number), holder.content):
            continue
        found = location.list_tags(url)
        listed = _numbers_in(found)
        created = _read_claim(url, number)
        if created is None or created.name != holder.name:
            continue  # the store does not know exclusive creation, and another process was later
        if listed[-1:] == [number] and set(listed) <= {*known, number}:
            _delete_claims(url, known[:-_KEPT_CLAIMS])
            return replace(claim, tag=found[_name(number)])
        # Others began to count from 1 meanwhile, after a lease that was not kept.
        location.delete(_claim_url(url, number), recursive=False)
    raise OutputError(
        f"{url}: no lease can be taken, because this place refuses a new file there as if it existed, but does not "
        "show it; delete this folder if no process is at work on the output, or choose another place."
    )


def _wait_for_end(url: str, number: int, *, output: str, clock: Clock) -> None:
    """Wait until it is known that the holder of a claim is dead, has given the lease back, or was replaced.

    Raises:
        OutputError: the holder is alive.
    """
    holder, first = _read_claim(url, number), _read_beat(url, number)
    if _is_released(first):
        return
    end = clock.now() + EXPIRY_S
    alive = None if holder is None else holder.known_alive()
    while alive is None and clock.now() < end:
        clock.sleep(_POLL_S)
        if _numbers(url)[-1:] != [number]:
            return
        beat = _read_beat(url, number)
        if _is_released(beat):
            return
        alive = True if beat != first else None
    if alive:
        raise OutputError(
            f"{output}: {holder} is at work on this output; wait until it has ended, or stop it and try again."
        )


def _numbers(url: str) -> list[int]:
    """Return the numbers of all claims, in order."""
    return _numbers_in(location.list_names(url))


def _numbers_in(names: Iterable[str]) -> list[int]:
    return sorted(int(name) for name in names if len(name) == _DIGITS and name.isdecimal())


def _delete_claims(url: str, numbers: list[int]) -> None:
    """Delete claims from the oldest on; end at the first that cannot be deleted."""
    with contextlib.suppress(OSError, OutputError):
        for number in numbers:
            location.delete(_claim_url(url, number), recursive=False)
            location.delete(_beat_url(url, number), recursive=False)


def _read_claim(url: str, number: int) -> Holder | None:
    content = _content(_claim_url(url, number))
    return None if content is None else parse_holder(content)


def _read_beat(url: str, number: int) -> bytes | None:
    return _content(_beat_url(url, number))


def _content(url: str) -> bytes | None:
    try:
        return location.read_bytes(url)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _is_released(beat: bytes | None) -> bool:
    return beat is not None and b'"released": true' in beat


def _claim_url(url: str, number: int) -> str:
    return location.join(url, _name(number))


def _name(number: int) -> str:
    return f"{number:0{_DIGITS}d}"


def _beat_url(url: str, number: int) -> str:
    return _claim_url(url, number) + _BEAT
