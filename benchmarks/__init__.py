"""One harness: paths of a kernel interleaved in one run, ratios reported, one JSON line last."""
