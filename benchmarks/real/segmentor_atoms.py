"""Logits of a segmentor for views, states and displaced images of one image, each computed once."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

import mmdiscard
from mmdiscard.models import Ensemble

#: position of a view in the tta_pipeline of configs/camvid: sizes by flips
VIEWS = {
    'smaller': 0,
    'smaller flip': 1,
    'plain': 2,
    'flip': 3,
    'larger': 4,
    'larger flip': 5,
}
FOUR = ('plain', 'flip')  # views of which all four states are computed
IMAGE_STEPS = (2, 4, 8, 16)
EXACT = dict(type='AverageAggregator', on='logits', align='exact')
PAPER = dict(
    subsampling=dict(groups='inner'),
    search=dict(type='GreedySearch', budget=4, criterion=dict(type='EntropyCriterion')),
    aggregator=dict(type='EntropyAggregator', on='features', align='bilinear'),
)


def build(config: Config, checkpoint: Path) -> nn.Module:
    """The config's model with its weights, in evaluation mode."""
    from mmseg.registry import MODELS

    model_config = copy.deepcopy(config.model)
    model_config.backbone.pop('init_cfg', None)
    model = MODELS.build(model_config)
    load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True)
    return model.eval().to(memory_format=torch.channels_last)


class SegmentorAtoms:
    """Computes everything that procedures are made of.

    Args:
        config: of `configs/camvid`.
        checkpoint: of its model.

    Attributes:
        costs: multiply-accumulates of the default and the farthest state, and of all four states
            of a group, in plain forwards, by position of the group.
        auto: position of the deepest group that every level read by the head has passed.
    """

    def __init__(self, config: Config, checkpoint: Path) -> None:
        init_default_scope('mmseg')
        self._build = partial(build, config, checkpoint)
        self.model = self._build()
        found = mmdiscard.find_subsampling(self.model.backbone, input_size=(384, 480))
        self.groups = range(len(found))
        self.ensembles = {
            group: mmdiscard.attach(
                self._build(),
                subsampling=dict(groups=[group], input_size=(384, 480)),
                search=dict(type='SpreadStates', budget=4),
                aggregator=EXACT,
            )
            for group in self.groups
        }
        read = self._levels_read()
        self.auto = max(g for g in self.groups if read <= set(found[g].levels))
        self.costs = {
            group: (ensemble.prices.of([[0], [3]]), ensemble.prices.of([[0], [1], [2], [3]]))
            for group, ensemble in self.ensembles.items()
        }

    @cached_property
    def paper(self) -> Ensemble:
        """With the paper's settings."""
        return mmdiscard.attach(self._build(), **PAPER)

    @cached_property
    def features(self) -> Ensemble:
        """Two states of the group `auto`, their features averaged."""
        return mmdiscard.attach(
            self._build(),
            subsampling=dict(groups=[self.auto], input_size=(384, 480)),
            search=dict(type='SpreadStates', budget=2),
            aggregator=dict(type='AverageAggregator', on='features', align='bilinear'),
        )

    def _levels_read(self) -> set[int]:
        adapter = self.ensembles[0].adapter
        image = torch.zeros(1, 3, 384, 480)
        with torch.no_grad():
            levels = adapter.features(image)
        return {i for i, read in enumerate(adapter.levels_read(levels, image)) if read}

    @torch.no_grad()
    def of(self, views: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
        """Names and logits ``(K, H, W)`` in the image's own frame.

        Args:
            views: the image in every view of `VIEWS`, as `split_views` gives them.
        """
        for name, position in VIEWS.items():
            images, samples = self._preprocessed(views[position])
            metas = [sample.metainfo for sample in samples]
            yield name, self._in_frame(self.model.encode_decode(images, metas), samples)
            groups = self.groups if name == 'plain' else (self.auto,)
            for group in groups:
                indices = (1, 2, 3) if name in FOUR and group == self.auto else (3,)
                maps = self._states(self.ensembles[group], images, metas, indices)
                for index, logits in maps.items():
                    yield f'{name} group {group} state {index}', self._in_frame(logits, samples)
            if name == 'plain':
                yield from self._displaced(images, samples, metas)
                yield 'paper', self._in_frame(self.paper.predict(images, metas), samples)
                yield 'features', self._in_frame(self.features.predict(images, metas), samples)

    def _displaced(
        self, images: Tensor, samples: list, metas: list
    ) -> Iterator[tuple[str, Tensor]]:
        """Of the image displaced by steps, moved back; and of the image moved by one pixel."""
        for step in IMAGE_STEPS:
            maps = self.model.encode_decode(moved(images, -step, -step), metas)
            yield f'image {step} {step}', self._in_frame(moved(maps, step, step), samples)
        shifted = moved(images, -1, -1)
        maps = self.model.encode_decode(shifted, metas)
        yield 'shifted', self._in_frame(moved(maps, 1, 1), samples)
        maps = self._states(self.ensembles[self.auto], shifted, metas, (3,))[3]
        yield 'shifted state 3', self._in_frame(moved(maps, 1, 1), samples)

    def _preprocessed(self, view: Any) -> tuple[Tensor, list]:
        data = self.model.data_preprocessor(view, False)
        return data['inputs'], data['data_samples']

    def _in_frame(self, logits: Tensor, samples: list) -> Tensor:
        """Without padding, flipped back and resized by MM: ``(1, K, h, w)`` to ``(K, H, W)``."""
        done = self.model.postprocess_result(logits, [sample.new() for sample in samples])
        return done[0].seg_logits.data

    @staticmethod
    def _states(
        ensemble: Ensemble, images: Tensor, metas: list, indices: Sequence[int]
    ) -> Mapping[int, Tensor]:
        """Logits ``(1, K, H, W)`` of states of the only group, aligned exactly."""
        states = torch.tensor([[0], *([index] for index in indices)])
        maps = {}
        for part in ensemble.explore(images, states, metas):
            for row, state in enumerate(part.rows.states[:, 0].tolist()):
                maps[state] = part.output[row : row + 1]
        return {index: maps[index] for index in indices}


def moved(maps: Tensor, down: int, right: int) -> Tensor:
    """Content moved by whole pixels, edges repeated: ``(N, C, H, W)``."""
    height, width = maps.shape[2:]
    padded = F.pad(
        maps,
        (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)),
        mode='replicate',
    )
    top, left = max(-down, 0), max(-right, 0)
    return padded[:, :, top : top + height, left : left + width]
