"""Settings that all tests share."""

import os
import signal

# models here are tiny and tests run side by side: threads that wait for one another only cost.
# set before torch starts its pool, so that the programs that tests start have it too
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell's jobs in the background ignore interrupts, and so would the programs that tests interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings

# where a change is judged every run draws the same examples, elsewhere new ones each time;
# the first call of a kernel is slow and machines are shared: a time limit would fail at random
settings.register_profile("shared", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("shared")
