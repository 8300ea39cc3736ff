"""Tables in Markdown, as the package makes them."""

from mmdiscard.utils import markdown_table

__all__ = ['markdown_table']
