"""A made-up run in which one section needs a look, as the plugin of napari shows it."""

from pathlib import Path

from ssem_dask.section_record import Attention, Kind, SectionRecord
from ssem_dask.storage.location import join, write_json
from tests.support.fabricated_run import Fabricated, fabricate_run


def fabricate_spoilt_run(folder: Path) -> Fabricated:
    """Make a run of 8 sections of 2048² px, in which section 5 has a fold."""
    run = fabricate_run(folder, sections=8, side=2048)
    record = SectionRecord(z=5, name="S006.tif", kind=Kind.FOLD, certainty=0.9, detail="fold")
    write_json(join(run.url, "quality/attention.json"), Attention(sections=8, records=(record,)).to_json())
    return run
