"""A report as one HTML file that needs nothing beside itself."""

from expertly.observe.page.render import MAX_BYTES, sample_size, to_html

__all__ = ["MAX_BYTES", "sample_size", "to_html"]
