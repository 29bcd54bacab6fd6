"""`python -m tests.support.quick_lease`: the command line, with a lease that expires after seconds.

With `LATE_SHARD`, a shard arrives late (`tests.support.late_shard`).
"""

import os

from ssem_dask.cli.main import main
from ssem_dask.storage import lease
from tests.support.late_shard import dask_setup

EXPIRY_S = 4.0

if __name__ == "__main__":
    lease.EXPIRY_S, lease.VALID_S, lease.RENEWAL_S = EXPIRY_S, 2.0, 0.5
    if "LATE_SHARD" in os.environ:
        dask_setup(None)
    main()
