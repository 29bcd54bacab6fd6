# Public names: `__init__.py` imports them from here on first use, and type checkers read them.

from .api.aligned_run import Alignment, open_alignment
from .api.data import export, export_volume, import_volume, warp, warp_volume
from .api.results import Viewer, compare, evaluate, report, view, write_report
from .api.running import Plan, align, append, plan, rerun, status
from .api.two_images import RegisteredPair, register_pair
from .driver.run_status import Summary
from .report.comparison import Comparison
from .storage.evaluation_file import Evaluation

__version__: str
__all__ = [
    "Alignment",
    "Comparison",
    "Evaluation",
    "Plan",
    "RegisteredPair",
    "Summary",
    "Viewer",
    "__version__",
    "align",
    "append",
    "compare",
    "evaluate",
    "export",
    "export_volume",
    "import_volume",
    "open_alignment",
    "plan",
    "register_pair",
    "report",
    "rerun",
    "status",
    "view",
    "warp",
    "warp_volume",
    "write_report",
]
