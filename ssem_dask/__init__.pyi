# Public names: `__init__.py` imports them from here on first use, and type checkers read them.

from .driver.pipeline import align
from .driver.run_status import Summary
from .report.comparison import Comparison, compare
from .volumes.alignment import Alignment, open_alignment
from .volumes.exporting import export_volume
from .volumes.importing import import_volume
from .volumes.warping import warp_volume

__version__: str
__all__ = [
    "Alignment",
    "Comparison",
    "Summary",
    "__version__",
    "align",
    "compare",
    "export_volume",
    "import_volume",
    "open_alignment",
    "warp_volume",
]
