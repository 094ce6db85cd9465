"""Settings that all tests share."""

from hypothesis import settings

# the first call of a kernel is slow and machines are shared: a time limit would fail at random
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
