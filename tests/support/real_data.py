"""Real sections, which are not part of the repository: SSEM_DATA_DIR names their folder."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_DIR = Path(os.environ.get("SSEM_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
