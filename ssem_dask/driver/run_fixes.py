"""The fixes of a run: those that the user gives now, those that it has, and those that its statistics were fitted with.

A run keeps every version that it has used (`storage.fixes_store`). Without `--fixes` the version that holds stays.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ssem_dask.errors import ConfigError, OutputError, SourceError
from ssem_dask.fixes.fix_checks import check_fixes
from ssem_dask.fixes.fix_records import Fixes
from ssem_dask.fixes.fixes_toml import fixes_text, parse_fixes
from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes, section_fixes
from ssem_dask.registration.gauss_newton.gauss_newton_window import GaussNewton
from ssem_dask.stages.compose.layout import restriction_factor
from ssem_dask.stages.compose.method import STAGE
from ssem_dask.stages.fixed_sections import read_mask_image
from ssem_dask.stages.job import Job
from ssem_dask.storage.fixes_store import file_digest, keep_fixes, read_fixes_file, read_kept_fixes
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import is_local, local_path
from ssem_dask.storage.run_group import RunRecord, is_run, read_writable_run, update_run
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.task import stage_part


@dataclass(frozen=True, slots=True)
class GivenFixes:
    """A file of fixes that the user names."""

    url: str
    text: str

    @classmethod
    def read(cls, url: str) -> "GivenFixes":
        """Read a file; paths of masks in it become absolute, so that they can be found from anywhere.

        Raises:
            ConfigError: the file cannot be read, or is no file of fixes.
        """
        text = read_fixes_file(url)
        fixes = parse_fixes(text, where=url)
        absolute = _with_absolute_masks(fixes, url)
        return cls(url, text if absolute == fixes else fixes_text(absolute))


@dataclass(frozen=True, slots=True)
class RunFixes:
    """Texts of the fixes of a run; empty texts fix nothing."""

    current: str = ""
    fitted: str = ""
    """Fixes that were there when the statistics were fitted."""

    def keep(self, output: str) -> None:
        """Write both versions into a run, and name them in its attributes; the caller holds its lease."""
        names = [keep_fixes(output, text) if text else "" for text in (self.fitted, self.current)]
        update_run(output, fitted_fixes=names[0], fixes=names[1])


def meaning(text: str, info: VolumeInfo, *, where: str) -> VolumeFixes:
    """Return what a text of fixes means for a volume.

    Args:
        text: TOML.
        info: shape and pixel size of the volume.
        where: name of the file, for messages.

    Raises:
        ConfigError: it is no file of fixes, does not fit the volume, or contradicts itself.
        SourceError: a mask file cannot be read, or does not fit the sections.
    """
    if not text:
        return NO_FIXES
    fixes = parse_fixes(text, where=where)
    check_fixes(fixes, shape=info.shape, pixel_size=info.pixel_size, where=where)
    for fix in fixes.section:
        if isinstance(fix.mask, str):
            read_mask_image(fix.mask, (info.shape[1], info.shape[2]))
    return section_fixes(fixes, pixel_size=info.pixel_size, file_digest=file_digest)


def kept_meaning(text: str, *, pixel_size: float, where: str) -> VolumeFixes:
    """Return what a text of fixes means that a run has used; it is not checked again, and no mask is read.

    Args:
        text: TOML.
        pixel_size: nm per px of the run's source.
        where: name of the run, for messages.
    """
    return section_fixes(parse_fixes(text, where=where), pixel_size=pixel_size, file_digest=lambda _: "")


def with_fixes(job: Job, given: GivenFixes | None, *, refit: bool) -> tuple[Job, RunFixes]:
    """Return the job with its fixes, and their texts.

    Args:
        job: the run, without fixes.
        given: what the user gives; None: what the run has.
        refit: whether statistics are fitted again.

    Raises:
        ConfigError, SourceError: see `meaning`.
    """
    stored = stored_fixes(job.output)
    text = stored.current if given is None else given.text
    where = job.output if given is None else given.url
    fixes = meaning(text, job.info, where=where)
    _check_settings(fixes, job, where=where)
    fitted = stored.fitted
    fitted_fixes = meaning(fitted, job.info, where=job.output)
    if refit or not _keeps_fit(job, fixes, fitted_fixes):
        fitted, fitted_fixes = text, fixes
    previous = fixes if given is None else meaning(stored.current, job.info, where=job.output)
    return replace(job, fixes=fixes, fitted_fixes=fitted_fixes, previous_fixes=previous), RunFixes(text, fitted)


def _keeps_fit(job: Job, fixes: VolumeFixes, fitted: VolumeFixes) -> bool:
    """Return whether fixes can be followed while the statistics stay as they were fitted.

    Jumps displace all later sections, and other methods than `relax` on whole planes have no statistics to keep: then
    all is fitted again, as it is if a run has not got that far. So it is with slabs, whose statistics are their own.
    """
    if job.slabs or fixes.jumps() != fitted.jumps() or job.compose.method != "relax" or restriction_factor(job) > 1:
        return False
    if not is_run(job.output):
        return False
    entry = open_ledger(job.output).read(f"{STAGE}/fit")
    return entry is not None and entry.outcome.is_done and stage_part(entry.digest) == job.digests[STAGE]


def stored_fixes(output: str) -> RunFixes:
    """Return the fixes that a run has; none if there is no run."""
    record = _record(output)
    if record is None:
        return RunFixes()
    current, fitted = (read_kept_fixes(output, name) if name else "" for name in (record.fixes, record.fitted_fixes))
    return RunFixes(current, fitted)


def _record(output: str) -> RunRecord | None:
    try:
        return read_writable_run(output)
    except (SourceError, OutputError):
        return None  # whoever writes into it says what is wrong with it


def _check_settings(fixes: VolumeFixes, job: Job, *, where: str) -> None:
    """Raise ConfigError if the settings of the run have no use for some fixes."""
    neighbours = job.register.neighbours
    for fixed, moving in fixes.pairs:
        if abs(fixed - moving) > neighbours:
            raise ConfigError(
                f"Fixes {where}: a [[pair]] joins sections {fixed} and {moving}, but only sections up to {neighbours} "
                "apart are compared; give points in sections that are nearer to each other."
            )
    drawn = "[[pair]]" if fixes.pairs else "split" if any(fix.splits for fix in fixes.sections.values()) else ""
    if drawn and job.register.method != GaussNewton.name:
        raise ConfigError(
            f"Fixes {where}: {drawn} is understood by [register] method = {GaussNewton.name!r} alone, not by "
            f"{job.register.method!r}; leave it out, or choose that method."
        )


def _with_absolute_masks(fixes: Fixes, url: str) -> Fixes:
    if not is_local(url):
        return fixes
    folder = local_path(url).absolute().parent

    def absolute(mask: str) -> str:
        return mask if "://" in mask or Path(mask).is_absolute() else str(folder / mask)

    sections = tuple(
        fix.model_copy(update={"mask": absolute(fix.mask)}) if isinstance(fix.mask, str) else fix
        for fix in fixes.section
    )
    return fixes.model_copy(update={"section": sections})
