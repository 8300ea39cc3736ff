"""What a second look in unsure windows gains on a real segmentor, by what is looked at.

    python -m benchmarks.real.windows CONFIG CHECKPOINT --split test --step 6

Writes `work_dirs/real/windows/NAME_SPLIT.npz`, confusions by look and number of windows, from which
`benchmarks.real.windows_report` makes tables. An interrupted run goes on with the next image.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

import mmdiscard
from mmdiscard.aggregation.row_outputs import normalized_entropy
from mmdiscard.models.unsure_windows import UnsureWindows
from mmdiscard.models.window_inference import coarsest_stride
from mmdiscard.models.windows import Windows

from .segmentor_atoms import EXACT, VIEWS, build
from .segmentors import PLAIN, Statistics, save_statistics, statistics_of_images

OUT = Path('work_dirs/real/windows')
FRAME = (384, 480)
FARTHEST = 3
SIZE = (128, 192)  # of a window; three are 40 % of an image
HALO = 16
SHARE = 0.55  # of an image that windows cover at most
#: looks whose logits are averaged with those of the plain prediction
LOOKS: dict[str, tuple[str, ...]] = {
    'crop': ('crop',),
    'state': ('state',),
    'flip': ('flip',),
    'flipped state': ('flipped state',),
    'crop and state': ('crop', 'state'),
    'state and flip': ('state', 'flip'),
    'state and flipped state': ('state', 'flipped state'),
    'state, flip, both': ('state', 'flip', 'flipped state'),
}


class WindowAtoms:
    """Computes the looks at windows.

    Args:
        config: of `configs/camvid`.
        checkpoint: of its model.

    Attributes:
        pair: cost of the default and the farthest state, in plain forwards.
    """

    def __init__(self, config: Config, checkpoint: Path) -> None:
        init_default_scope('mmseg')
        self.ensemble = mmdiscard.attach(
            build(config, checkpoint),
            subsampling=dict(groups='auto', input_size=FRAME),
            search=dict(type='SpreadStates', budget=4),
            aggregator=EXACT,
        )
        self.adapter = self.ensemble.adapter
        self.step = coarsest_stride(self.ensemble.pipeline)
        self.pair = float(self.ensemble.prices.of([[0], [FARTHEST]]))

    def looks(self, images: Tensor, context: Any) -> dict[str, Tensor]:
        """Logits ``(N, K, H, W)`` by name of a look, in the frame of the images."""
        states = torch.tensor([[0], [FARTHEST]])
        found = {}
        for (default, farthest), seen in (
            (('crop', 'state'), images),
            (('flip', 'flipped state'), images.flip(3)),
        ):
            maps: dict[int, list[Tensor]] = {0: [], FARTHEST: []}
            for part in self.ensemble.explore(seen, states, context):
                for row, state in enumerate(part.rows.states[:, 0].tolist()):
                    maps[state].append(part.output[row])
            found[default], found[farthest] = (torch.stack(own) for own in maps.values())
        return {name: maps.flip(3) if 'flip' in name else maps for name, maps in found.items()}

    def arrays(self, views: Sequence[Any], labels: Tensor) -> Mapping[str, np.ndarray]:
        """Confusions of one image.

        Args:
            views: the image in every view of `VIEWS`.
            labels: ``(H, W)``.
        """
        data = self.adapter.model.data_preprocessor(views[VIEWS[PLAIN]], False)
        images = data['inputs']
        context = [sample.metainfo for sample in data['data_samples']]
        plain = self.adapter.logits(images, context)
        height, width = labels.shape
        statistics = Statistics(labels, plain[0, :, :height, :width].softmax(0))

        def confusion(prediction: Tensor) -> np.ndarray:
            return statistics.confusion(prediction[0, 0, :height, :width]).astype(np.int32)

        entropy = normalized_entropy(plain)
        where = UnsureWindows(size=SIZE, halo=HALO, share=SHARE)
        windows = where.choose(entropy, self.step, self.adapter.valid_sizes(images, context))
        crops = windows.crop(images)
        own = self.adapter.window_context(context, windows.images.tolist(), crops)
        looks, known = self.looks(crops, own), windows.crop(plain)
        before = plain.argmax(1, keepdim=True)
        found = [
            confusion(pasted(before, first(windows, count), inside))
            for inside in (merged(known, looks, names) for names in LOOKS.values())
            for count in range(1, len(windows) + 1)
        ]
        return dict(
            plain=confusion(before),
            windows=np.stack(found).reshape(len(LOOKS), len(windows), *found[0].shape),
            entropy=sums(entropy, windows),
        )


def merged(plain: Tensor, looks: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Labels ``(N, 1, H, W)`` of the mean of logits."""
    return torch.stack([plain, *(looks[name] for name in names)]).mean(0).argmax(1, keepdim=True)


def first(windows: Windows, count: int) -> Windows:
    """The first windows of the only image."""
    return Windows(windows.boxes[:count], windows.size, windows.halo, windows.frame)


def pasted(before: Tensor, windows: Windows, inside: Tensor) -> Tensor:
    """A copy of labels ``(1, 1, H, W)`` with those in windows replaced."""
    labels = before.clone()
    windows.paste(labels, inside[: len(windows)])
    return labels


def sums(entropy: Tensor, windows: Windows) -> np.ndarray:
    """Entropy ``(M,)`` of each window in pixels that none before it has."""
    order = torch.full((1, 1, *windows.frame), -1)
    windows.paste(order, torch.arange(len(windows)).view(-1, 1, 1, 1).expand(-1, 1, *windows.size))
    return torch.stack([entropy[order[:, 0] == i].sum() for i in range(len(windows))]).numpy()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    atoms, loaded, path = statistics_of_images(
        argv,
        __doc__.split('\n')[0],
        OUT,
        WindowAtoms,
        WindowAtoms.arrays,
        step=6,
    )
    save_statistics(path, loaded, dict(pair=atoms.pair))
    return 0


if __name__ == '__main__':
    sys.exit(main())
