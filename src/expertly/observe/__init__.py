"""What the experts of a model do on texts: load, pairs, domains, words."""

from expertly.observe.report import LayerReport, Report, TokenUse
from expertly.observe.watch import observe

__all__ = ["LayerReport", "Report", "TokenUse", "observe"]
