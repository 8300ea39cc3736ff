"""From a config and a checkpoint to a file with one graph, checked against the attached model."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ..engine.load_runner import load_runner, search_settings
from ..errors import MMDiscardError
from ..models import Ensemble, attach, unwrap
from ..models.wrappers import normalised_channels
from ..search import FixedStates
from ..subsampling.backbone import inference_mode, plausible_channels
from ..utils import report, write_atomically
from .graph_check import check_difference, largest_difference, median_time
from .graph_formats import FORMATS, Run, quiet
from .merged_model import MergedModel, check_labels, fixed_states
from .preprocessing import Normalisation

TRACED_IMAGES = 2  # one is a number that exporters take for a constant


@dataclass(frozen=True)
class ExportRequest:
    """Settings of an export.

    Attributes:
        checkpoint: path or URL of the weights.
        out: file to write.
        format: a key of `FORMATS`.
        size: ``(H, W)`` of the images; None for the `input_size` of the config's hook.
        dynamic_size: whether images may have other sizes too.
        normalise: whether the graph normalises its images itself.
        labels: whether it gives labels instead of logits.
    """

    checkpoint: str
    out: Path
    format: str
    size: tuple[int, int] | None = None
    dynamic_size: bool = False
    normalise: bool = False
    labels: bool = False


@dataclass(frozen=True)
class GraphFigures:
    """Size, time and error of one graph, for the report.

    Attributes:
        states: how many it computes.
        nodes: number of operations.
        megabytes: of its file.
        graph_ms: milliseconds for one image.
        model_ms: the same of the attached model, run by PyTorch.
        difference: largest difference from it, relative to the largest logit.
    """

    states: int
    nodes: int
    megabytes: float
    graph_ms: float
    model_ms: float
    difference: float


def export(cfg: Config, request: ExportRequest) -> dict[str, GraphFigures]:
    """Write the graph of a config's model and states; the same of the plain model is measured.

    The config, which has a `SubsamplingSearchHook`, is changed.

    Returns:
        Figures of the ``plain`` and the ``merged`` graph.

    Raises:
        MMDiscardError: if config, checkpoint and request do not fit together, if the model cannot
            be written in that format, or if the graph does not compute what the model does.
    """
    settings = search_settings(cfg)
    FORMATS[request.format]().check()
    init_default_scope(cfg.default_scope)
    model = unwrap(load_runner(cfg, request.checkpoint).model).cpu()
    with attach(model, **settings) as ensemble, inference_mode(model):
        return Exporter(ensemble, request).run()


class Exporter:
    """Writes the graph of an attached model, which is on the CPU and in evaluation mode.

    Raises `MMDiscardError` as `export` does.
    """

    def __init__(self, ensemble: Ensemble, request: ExportRequest) -> None:
        self.ensemble = ensemble
        self.request = request
        self.states = fixed_states(ensemble)
        self.format = FORMATS[request.format]()
        if request.labels:
            check_labels(ensemble.adapter)
        self.size = request.size or ensemble.input_size
        model = ensemble.adapter.model
        self.preprocess = Normalisation(ensemble.adapter) if request.normalise else None
        self.channels = (
            normalised_channels(model) or plausible_channels(ensemble.adapter.backbone)[0]
        )
        self.divisors = ensemble.geometry.coarsest_stride

    def run(self) -> dict[str, GraphFigures]:
        """Write and measure; see `export`."""
        with tempfile.TemporaryDirectory() as folder:
            default = [tuple(self.ensemble.space.default(1)[0].tolist())]
            plain = self._write(default, Path(folder, 'plain'))
        merged: list[GraphFigures] = []
        write_atomically(
            self.request.out, lambda path: merged.append(self._write(self.states, path))
        )
        return dict(plain=plain, merged=merged[0])

    def _write(self, states: Sequence[tuple[int, ...]], path: Path) -> GraphFigures:
        report(f'tracing {len(states)} state{"s" * (len(states) > 1)} at {self.size}')
        self.ensemble.use(FixedStates([list(state) for state in states]))
        with self._module(states) as module, quiet():
            example = self._images(TRACED_IMAGES, self.size)
            with self._refusal():
                nodes = self.format.write(module, example, self._dynamic(), path)
                graph = self.format.load(path)
            difference = self._check(graph)
            image = self._images(1, self.size)
            return GraphFigures(
                states=len(states),
                nodes=nodes,
                megabytes=path.stat().st_size / 1e6,
                graph_ms=1e3 * median_time(lambda: graph(image)),
                model_ms=1e3 * median_time(lambda: self._expected(image)),
                difference=difference,
            )

    @contextmanager
    def _module(self, states: Sequence[tuple[int, ...]]) -> Iterator[nn.Module]:
        example = self._preprocessed(self._images(1, self.size))
        module = MergedModel(
            self.ensemble, states, example, self.preprocess, self.request.labels
        ).eval()
        try:
            yield module
        finally:
            module.remove()

    def _check(self, graph: Run) -> float:
        """The largest difference from the attached model, over some batches."""
        (height, width), (down, right) = self.size, self.divisors
        batches = [(1, self.size), (TRACED_IMAGES + 1, self.size)]
        if self.request.dynamic_size:
            batches.append((1, (height + down, width + 2 * right)))
        worst = 0.0
        for count, size in batches:
            images = self._images(count, size)
            logits = self._expected(images)
            with self._refusal():
                found = graph(images)
            difference = largest_difference(found, logits, self.request.labels)
            check_difference(difference, images)
            worst = max(worst, difference)
        return worst

    def _expected(self, images: Tensor) -> Tensor:
        """Output of the attached model."""
        return self.ensemble.predict(self._preprocessed(images))

    def _preprocessed(self, images: Tensor) -> Tensor:
        return images if self.preprocess is None else self.preprocess(images)

    def _images(self, count: int, size: tuple[int, int]) -> Tensor:
        """Noise as the graph receives it."""
        shape = (count, self.channels, *size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(count))
        return noise if self.preprocess is None else (128 + 64 * noise).clamp(0, 255).round()

    def _dynamic(self) -> dict[int, tuple[str, int]]:
        """By axis of the images that may have any length: its name, and what divides it."""
        sides = {2: ('height', self.divisors[0]), 3: ('width', self.divisors[1])}
        return {0: ('batch', 1)} | (sides if self.request.dynamic_size else {})

    @contextmanager
    def _refusal(self) -> Iterator[None]:
        """Turn whatever exporters and runtimes raise into an error of one line."""
        try:
            yield
        except MMDiscardError:
            raise
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), '')
            dynamic = self.request.dynamic_size
            cure = 'try without --dynamic-size' if dynamic else 'try the other --format'
            raise MMDiscardError(
                f'{type(self.ensemble.adapter.model).__name__} cannot be written as '
                f'{self.request.format} at {self.size}: {type(error).__name__}: {reason}; {cure}'
            ) from error
