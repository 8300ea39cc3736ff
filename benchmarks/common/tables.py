"""Tables in Markdown, as the package makes them."""

from collections.abc import Sequence

from mmdiscard.utils import markdown_table

__all__ = ['interval', 'markdown_table']


def interval(gain: Sequence[float]) -> str:
    """``+0.69 [+0.49, +0.91]``."""
    return f'{gain[0]:+.2f} [{gain[1]:+.2f}, {gain[2]:+.2f}]'
