"""The normalisation of a model's data preprocessor as a part of the graph."""

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models.adapters import ModelAdapter


class Normalisation(nn.Module):
    """Reverses channels and normalises, as the data preprocessors of MMEngine do.

    Raises:
        MMDiscardError: if the preprocessor does something else to an image.
    """

    def __init__(self, adapter: ModelAdapter) -> None:
        super().__init__()
        preprocessor = adapter.model.data_preprocessor
        # The packages have three names for one option.
        names = ('to_rgb', 'channel_conversion', '_channel_conversion')
        self.reverse = any(getattr(preprocessor, name, False) for name in names)
        mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
        self.register_buffer('mean', torch.zeros(1, 1, 1) if mean is None else mean.clone())
        self.register_buffer('std', torch.ones(1, 1, 1) if std is None else std.clone())
        self._check(adapter)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images ``(N, C, H, W)`` of float32 in 0..255."""
        if self.reverse:
            images = torch.cat([images[:, 2:3], images[:, 1:2], images[:, 0:1]], dim=1)
        return (images - self.mean) / self.std

    def _check(self, adapter: ModelAdapter) -> None:
        preprocessor = adapter.model.data_preprocessor
        image = torch.arange(3 * 32 * 32).reshape(3, 32, 32).remainder(256).to(torch.uint8)
        batch = dict(inputs=[image], data_samples=adapter.samples(image[None]))
        try:
            # Without what it pads to the right and below, which makes sizes and no values.
            expected = preprocessor(batch, False)['inputs'][..., :32, :32]
            same = torch.allclose(self(image[None].float()), expected.float(), 1e-4, 1e-4)
        except Exception as error:  # whatever a preprocessor of others raises
            raise MMDiscardError(_refusal(preprocessor)) from error
        if not same:
            raise MMDiscardError(_refusal(preprocessor))


def _refusal(preprocessor: nn.Module) -> str:
    return (
        f'--normalise: {type(preprocessor).__name__} does more to an image than reverse its '
        'channels and normalise it; export without --normalise and feed preprocessed images'
    )
