"""zero_worker.py with a simulated GPU for each rank.

usage: torchrun --nproc-per-node 2 tests/unit/zero_worker_gpu.py FOLDER LIBRARY
"""

import sys
from pathlib import Path

from tests.simulated_gpu.starting import start

start(sys.argv[2], several=True)

from tests.unit import zero_worker  # noqa: E402 (torch only now)

zero_worker.main(Path(sys.argv[1]))
