"""Settings that all tests share."""

import os

# models here are tiny and tests run side by side: threads that wait for one another only cost.
# set before torch starts its pool, so that the programs that tests start have it too
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# where a change is judged every run draws the same examples, elsewhere new ones each time;
# the first call of a kernel is slow and machines are shared: a time limit would fail at random
settings.register_profile("shared", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("shared")
