"""Where expert weights live when they do not fit into memory: policies, traces and their replay,
reads past the page cache, and an arena of slots. Knows `(layer, expert)` keys, never a router."""

from expertly.store.disk import DirectDisk, Disk, Stamp
from expertly.store.expected import ExpectedUse
from expertly.store.joined import Joined
from expertly.store.replay import Count, Visit, belady, replay
from expertly.store.source import BlobSource, Extent, Slice, SliceSource, Source
from expertly.store.streamed import ExpertStore, Streamed

__all__ = [
    "BlobSource",
    "Count",
    "DirectDisk",
    "Disk",
    "ExpectedUse",
    "ExpertStore",
    "Extent",
    "Joined",
    "Slice",
    "SliceSource",
    "Source",
    "Stamp",
    "Streamed",
    "Visit",
    "belady",
    "replay",
]
