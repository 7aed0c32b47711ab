"""The statistics laboratory: realised error rates and power of the verdict's tests, by simulation.

    python -m benchmarks.statistics --json statistics.json --plots docs/images
    python -m benchmarks.statistics --quick          # under a minute

`suspects` makes answers, `procedures` are the tests in numpy, `agreement` holds them against the exact
integers of `watermark`, `errors` and `power` simulate, `terminal` and `plots` show.
"""

import os

# Many small arrays: threads only cost. Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
