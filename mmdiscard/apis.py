"""What users call; re-exported by the package."""

from .models import attach
from .subsampling import find_subsampling, translation_oracle

__all__ = ['attach', 'find_subsampling', 'translation_oracle']
