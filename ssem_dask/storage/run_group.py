"""A run: one Zarr v3 group whose attribute `ssem_dask` records its format, its configuration and its state.

The *format* numbers the layout of a run on disk. Commands that only read a run accept `READABLE_FORMATS`; commands that
write into one accept `FORMAT` alone, so that no version mixes its layout into that of another.

Warped and exported volumes have a state too: the former in a group attribute, the latter in a file beside their ledger,
because their formats have no place for it.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ssem_dask.errors import ContentError, OutputError, SourceError
from ssem_dask.storage import arrays, location, places
from ssem_dask.storage.node_metadata import METADATA_FILE
from ssem_dask.storage.run_source import recorded_source, source_identity
from ssem_dask.storage.section_names import section_label
from ssem_dask.storage.untrusted import JSON_OBJECT, POSITIVE, checked, read_hint, record_in, value_at
from ssem_dask.storage.volume import Volume
from ssem_dask.storage.volume_checks import WARP_KEY

T = TypeVar("T")
_IDENTIFYING = ("format", "config", "given", "config_digest", "source", "encoder_digest", "stages")
"""Attributes of a run that only change with its configuration."""
KEY = "ssem_dask"
"""Group attribute that makes a group a run."""
FORMAT = 2
"""Format of the runs that this version writes."""
READABLE_FORMATS = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Attributes of a run."""

    format: int
    version: str = ""
    """Version of ssem_dask that wrote the run last."""
    config: dict[str, Any] = field(default_factory=dict)
    """Resolved configuration, with everything that was chosen from the data."""
    given: dict[str, Any] = field(default_factory=dict)
    """Configuration as the user gave it."""
    config_digest: str = ""
    source: str = ""
    """URL of the source volume."""
    source_identity: str = ""
    """Name of the source in digests."""
    section_names: tuple[str, ...] = ()
    """Name of each section of the source; empty if sections have no names."""
    encoder_digest: str | None = None
    """SHA-256 of the encoder's weights; None if the method needs no encoder."""
    stages: tuple[str, ...] = ()
    """Names of the stages, in order; empty if an earlier version wrote the run."""
    state: str = "incomplete"
    """`running`, `incomplete` or `complete`."""
    environment: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that decide results."""
    fixes: str = ""
    """Name of the version of fixes that holds; empty: none. See `storage.fixes_store`."""
    fitted_fixes: str = ""
    """Name of the version that held when the statistics of the run were fitted."""
    sections: int = 0
    """Number of sections; 0 if an earlier version wrote the run."""
    fitted_sections: int = 0
    """Sections that there were when the statistics were fitted, if any were appended since; 0: nothing was appended."""
    finished_sections: int = 0
    """Sections of the last time that an append ended well; 0: none did."""
    source_changes: int = 0
    """Number of changes of sections of the source that the run knows of, see `storage.section_changes`."""
    batches: tuple[tuple[str, int, float], ...] = ()
    """Last batches that were appended: when each ended, the sections that there were then, and its seconds."""

    @property
    def pixel_size(self) -> float:
        """Nm per mip-0 pixel in y and x."""
        return self.setting("volume", "pixel_size", wanted=POSITIVE)

    @property
    def section_thickness(self) -> float:
        """Nm per section."""
        return self.setting("volume", "section_thickness", wanted=POSITIVE)

    @property
    def channel(self) -> int | None:
        """Channel of the source that was registered; None if the source has no channels."""
        table = self.config.get("volume")
        stored = table.get("channel") if isinstance(table, Mapping) else None
        return stored if isinstance(stored, int) else None

    def setting(self, *path: str, wanted: TypeAdapter[T]) -> T:
        """Return a value of the resolved configuration; SourceError if it is absent or of another type."""
        return value_at(self.config, *path, wanted=wanted, where=f"Configuration of the run of {self.source}")

    def section_label(self, z: int) -> str:
        """Return how a section is named to the user, by its number and the name of its file."""
        return section_label(z, self.section_names)

    def open_source(self) -> Volume:
        """Open the source volume, at the channel that was registered; SourceError if it is gone."""
        return Volume.open(
            self.source,
            pixel_size=self.pixel_size,
            section_thickness=self.section_thickness,
            channel=self.channel,
        )


_RUN_RECORD = TypeAdapter(RunRecord)
_STAGES = TypeAdapter(tuple[str, ...])


def is_run(url: str) -> bool:
    """Return whether there is a run at `url`; SourceError if the location cannot be reached."""
    return KEY in (arrays.group_attributes(url) or {})


def create_run(url: str, *, attributes: dict[str, Any]) -> None:
    """Create an empty run of the current format.

    Args:
        url: group to create; at most an empty folder, or what is left of a start, may be there.
        attributes: values of `RunRecord`, without the format.

    Raises:
        OutputError: a run or something else is there, or the location cannot be written.
    """
    with location.writing(url), location.as_output_error():
        if is_run(url):
            raise OutputError(f"{url}: an alignment is already there; choose another output or delete it.")
        if places.is_occupied(url):
            raise OutputError(
                f"{url}: something that is not an alignment is there; choose another output or delete it."
            )
        _write_record(url, {"format": FORMAT, **attributes})


def read_run(url: str) -> RunRecord:
    """Read the record of a run, in order to read the run.

    Raises:
        SourceError: nothing is there, or a later version of ssem_dask wrote the run.
        OutputError: something that is not a run is there.
    """
    return parse_run_record(url, _run_attributes(url))


def read_writable_run(url: str) -> RunRecord:
    """Read the record of a run, in order to write into the run.

    Raises:
        SourceError: nothing is there.
        OutputError: something that is not a run is there, or a run of an earlier or a later format.
    """
    return parse_run_record(url, _writable_attributes(url))


def _writable_attributes(url: str) -> dict[str, Any]:
    attributes = _run_attributes(url)
    run_format, version = attributes.get("format"), attributes.get("version", "(unknown)")
    if run_format != FORMAT:
        raise OutputError(
            f"{url}: this run has format {run_format}, but this version of ssem_dask writes format {FORMAT}; start a "
            f"new run at another output, or continue this one with ssem_dask {version}, which wrote it."
        )
    return attributes


def parse_run_record(url: str, attributes: Mapping[str, Any]) -> RunRecord:
    """Make a record of a run's attributes.

    Args:
        url: URL of the run, for the message.
        attributes: value of the group attribute `KEY`.

    Raises:
        SourceError: the run has no format that this version can read.
    """
    run_format = attributes.get("format")
    if run_format not in READABLE_FORMATS:
        raise SourceError(
            f"{url}: this run has format {run_format}, but this version of ssem_dask reads formats "
            f"{' and '.join(map(str, READABLE_FORMATS))}; use ssem_dask {attributes.get('version', 'of that format')}, "
            "which wrote it, or later."
        )
    known = RunRecord.__dataclass_fields__
    record = checked(
        {name: value for name, value in attributes.items() if name in known},
        _RUN_RECORD,
        where=url,
        what=f"its attribute {KEY}",
    )
    return replace(record, source=recorded_source(attributes, output=url), source_identity=record.source)


def run_section_names(url: str) -> tuple[str, ...]:
    """Return the names of the sections of a run's source; () if they have none, or if there is no run."""
    try:
        return read_run(url).section_names
    except (SourceError, OutputError):
        return ()


def recorded_identity(source: str, *, output: str) -> str:
    """Return the name that a source has in the digests of the run at `output`, which need not exist yet."""
    try:
        attributes = (arrays.group_attributes(output) or {}).get(KEY)
    except SourceError:
        attributes = None  # opening the run reports what is wrong with it
    return source_identity(source, output=output, attributes=attributes if isinstance(attributes, dict) else None)


def recorded_table(url: str, name: str) -> dict[str, Any] | None:
    """Return a table of the resolved configuration of the run at `url`; None if there is no run."""
    try:
        attributes = (arrays.group_attributes(url) or {}).get(KEY)
    except SourceError:
        return None  # opening the run reports what is wrong with it
    config = attributes.get("config") if isinstance(attributes, dict) else None
    table = config.get(name) if isinstance(config, dict) else None
    return table if isinstance(table, dict) else None


def stage_order(url: str) -> tuple[str, ...]:
    """Return the names of a run's stages in order; empty if the run does not record them, or if it is no run."""
    attributes = _stored_record(url) or _read_copy_of_lost(url) or {}
    return checked(attributes.get("stages", ()), _STAGES, where=url, what="its list of stages")


def update_run(url: str, **changes: Any) -> None:
    """Change some attributes of a run and keep the others; errors as in `read_writable_run` and `create_run`."""
    _write_record(url, {**_writable_attributes(url), **changes})


def record_damage(url: str) -> list[str]:
    """Return a sentence on the damage of a run's record, which its group has and the ledger has a copy of.

    Raises:
        SourceError: nothing is there.
        OutputError: something that is not a run is there, or both records are damaged.
    """
    stored, copy = _stored_record(url), _read_copy(url)
    if stored is None:
        _run_attributes(url)
        return [f"{location.join(url, METADATA_FILE)}: the record of the run is missing or cannot be read."]
    if copy is not None and any(stored.get(name) != copy.get(name) for name in _IDENTIFYING):
        return [f"{location.join(url, METADATA_FILE)}: the record of the run differs from its copy {_copy_url(url)}."]
    return []


def read_state(url: str) -> str:
    """Return the state of a run, or of a warped or exported volume: `running`, `incomplete` or `complete`.

    Raises:
        SourceError: nothing is there, or a later version of ssem_dask wrote the run.
        OutputError: something else is there.
    """
    run = _stored_record(url) or _read_copy_of_lost(url)
    if run is not None:
        return parse_run_record(url, run).state
    attributes = arrays.group_attributes(url)
    if attributes is None and not location.exists(url):
        raise SourceError(f"{url}: nothing is there; check the path.")
    for record in ((attributes or {}).get(WARP_KEY), read_export(url)):
        if isinstance(record, dict):
            return str(record.get("state"))
    raise OutputError(f"{url}: was written by none of 'align', 'run', 'warp' and 'export', which alone have a status.")


def read_export(url: str) -> dict[str, Any] | None:
    """Return the record of an exported volume: {"source", "form", "digest", "state"}; None if there is none."""
    return read_hint(_export_record_url(url), JSON_OBJECT)


def write_export(url: str, record: dict[str, Any]) -> None:
    """Write the record of an exported volume; see `read_export`."""
    with location.writing(url):
        location.write_json(_export_record_url(url), record)


def _run_attributes(url: str) -> dict[str, Any]:
    run = _stored_record(url) or _read_copy_of_lost(url)
    if run is not None:
        return run
    attributes = arrays.group_attributes(url)
    if attributes is None and not location.exists(url):
        raise SourceError(f"{url}: no alignment is there; check the path.")
    record_in(attributes or {}, KEY, where=url)  # an attribute that is no record
    raise OutputError(f"{url}: this is not an alignment; give the OUT.zarr that 'align' or 'run' wrote.")


def _stored_record(url: str) -> dict[str, Any] | None:
    """Return the record of a run that its group has; None if there is no group, or a damaged one."""
    with contextlib.suppress(ContentError):
        return record_in(arrays.group_attributes(url) or {}, KEY, where=url)
    return None


def _read_copy_of_lost(url: str) -> dict[str, Any] | None:
    """Return the copy of a run's record, if the group is damaged; None if it is whole and belongs to something else."""
    with contextlib.suppress(ContentError):
        attributes = arrays.group_attributes(url) or {}
        if set(attributes) - {KEY}:
            return None  # an imported, warped or other volume, or one that took the place of the run
    return _read_copy(url)


def _read_copy(url: str) -> dict[str, Any] | None:
    return read_hint(_copy_url(url), JSON_OBJECT)


def _copy_url(url: str) -> str:
    return location.join(url, "ledger", "run.record")


def _write_record(url: str, attributes: dict[str, Any]) -> None:
    """Write the record of a run, and after it the copy from which a damaged one is restored."""
    with location.writing(url):
        if _stored_record(url) is None and _read_copy_of_lost(url) is not None:
            location.delete(location.join(url, METADATA_FILE), recursive=False)
        arrays.create_group(url, attributes={KEY: attributes})
        location.write_json(_copy_url(url), attributes)


def _export_record_url(url: str) -> str:
    return location.join(url, "ledger", "export.json")
