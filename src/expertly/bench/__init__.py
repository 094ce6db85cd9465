"""Speed beside what limits it: engines and limits measured in turn, in one run."""

from expertly.bench.contender import Ours, Timed
from expertly.bench.limits import Probe
from expertly.bench.measuring import Bench, Row, measure
from expertly.bench.peer import Peer
from expertly.bench.reporting import header, line, table_row
from expertly.bench.work import Work, plan

__all__ = [
    "Bench",
    "Ours",
    "Peer",
    "Probe",
    "Row",
    "Timed",
    "Work",
    "header",
    "line",
    "measure",
    "plan",
    "table_row",
]
