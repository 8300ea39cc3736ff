"""Time and memory of predictions, in units of the plain model's, within one run.

Absolute times say little about another machine, and drift on a busy one. So every measurement of a
method stands between two of the plain model, its ratio is to their mean, and a figure is the median
of such ratios over turns in which every method runs once.
"""

import os
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from benchmarks.speed.methods import METHODS, BenchmarkSetup, TimedMethod
from benchmarks.speed.peak_memory import peak_memory
from mmdiscard.engine.config import is_discard_type, package_of, read_config
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import Progress, report

Clock = Callable[[], float]
PLAIN = 'plain'
MODEL_ERRORS = (
    RuntimeError,
    AssertionError,
    TypeError,
    ValueError,
    IndexError,
    NotImplementedError,
)


@dataclass(frozen=True)
class NamedModel:
    """A model of an MM package that a benchmark knows by name.

    Attributes:
        config: where its package keeps the config.
        size: ``(H, W)`` to measure with.
        batch: images per batch.
        groups: which groups to search.
    """

    config: str
    size: tuple[int, int]
    batch: int
    groups: str = 'inner'


OTHERS = {'mmpretrain': ((224, 224), 8), 'mmseg': ((512, 512), 1)}


# --------------------------------------------------------------------------------------- the model
def read_model_config(name: str, named: Mapping[str, NamedModel]) -> tuple[Config, NamedModel]:
    """The config that a path, a key of ``named``, or ``package::path`` stands for.

    Raises:
        MMDiscardError: if there is none, or it cannot be read.
    """
    known = named.get(name)
    where = known.config if known else name
    cfg = _packaged_config(where) if '::' in where else read_config(where)
    scope = package_of(cfg, where)
    return cfg, known or NamedModel(where, *OTHERS[scope])


def _packaged_config(where: str) -> Config:
    try:
        return Config.fromstring(f'_base_ = {where!r}', '.py')
    except Exception as error:  # MMEngine and the package raise whatever comes to hand
        raise MMDiscardError(
            f'cannot read {where}: {type(error).__name__}: {error}; it has to be the path of a '
            'config within its package'
        ) from error


def set_classes(model: Mapping[str, Any], classes: int) -> None:
    """Give every head of a model's config another number of classes."""
    for field in ('head', 'decode_head', 'auxiliary_head'):
        heads = model.get(field) or []
        for head in heads if isinstance(heads, list) else [heads]:
            head['num_classes'] = classes


def build_model(cfg: Config) -> nn.Module:
    """The config's model with random weights, for outputs of whole images.

    Raises:
        MMDiscardError: if it cannot be built.
    """
    init_default_scope(cfg.default_scope)
    if cfg.default_scope == 'mmseg':
        cfg.model.test_cfg = dict(mode='whole')  # one pass at the size that was asked for
    try:
        return MODELS.build(cfg.model).eval()
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise MMDiscardError(
            f'the model cannot be built: {type(error).__name__}: {error}; is an override of '
            '--cfg-options misspelt?'
        ) from error


def hook_settings(cfg: Config) -> dict[str, Any]:
    """What the config's search hook passes on to `mmdiscard.attach`; nothing if it has none."""
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if is_discard_type(hook)]
    fields = ('subsampling', 'search', 'aggregator', 'max_rows', 'max_cache_bytes')
    return {field: hooks[0][field] for field in fields if hooks and hooks[0].get(field) is not None}


def check_device(device: str) -> torch.device:
    """The device of that name.

    Raises:
        MMDiscardError: if there is none.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MMDiscardError(f'--device {device} cannot be used: {error}') from error
    return found


def check_plain(setup: BenchmarkSetup) -> None:
    """Run the plain model once.

    Raises:
        MMDiscardError: if it refuses its images.
    """
    try:
        setup.plain()
    except MODEL_ERRORS as error:
        size = ' x '.join(map(str, setup.images.shape[2:]))
        raise MMDiscardError(f'the model does not run on images of {size}: {error}') from error


# ------------------------------------------------------------------------------------ measurement
def prepare_methods(
    setup: BenchmarkSetup, methods: Sequence[str], budgets: Sequence[int]
) -> list[TimedMethod]:
    """Attach and warm up everything that will be measured.

    Args:
        setup: what to run on.
        methods: names in `METHODS`.
        budgets: numbers of states.

    Raises:
        MMDiscardError: if a method or a budget does not fit the model.
    """
    check_plain(setup)
    found: list[TimedMethod] = []
    seconds = plain = seconds_of(setup.plain, setup.images.device)
    progress = Progress(len(methods), 'methods ready')
    for method in methods:
        prepared, own = prepare(setup, method, budgets)
        found += prepared
        seconds += own + plain * len(prepared)
        progress.step(method)
    report(f'a turn takes about {seconds:.1f} s')
    return found


def prepare(
    setup: BenchmarkSetup, method: str, budgets: Sequence[int]
) -> tuple[list[TimedMethod], float]:
    """A method with every budget, each warmed up, and the seconds of one prediction by each.

    Args:
        setup: what to run on.
        method: name in `METHODS`.
        budgets: numbers of states.

    Raises:
        MMDiscardError: if it does not fit the model, the images, or the budgets.
    """
    try:
        found = METHODS[method].with_budgets(setup, budgets)
        return found, sum(seconds_of(one.predict, setup.images.device) for one in found)
    except MMDiscardError:
        raise
    except MODEL_ERRORS as error:
        raise MMDiscardError(f'the method {method} does not run: {error}') from error


def seconds_of(
    call: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter
) -> float:
    """Seconds of one call, the device's queue included.

    Args:
        call: what is measured.
        device: whose queue to wait for.
        clock: `time.process_time` for CPU time, which other jobs lengthen less.
    """
    synchronize(device)
    start = clock()
    call()
    synchronize(device)
    return clock() - start


def synchronize(device: torch.device) -> None:
    """Wait for a GPU's queue."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Times:
    """Seconds of one method over the turns, and of the plain model around each.

    Attributes:
        own: seconds of each turn.
        plain: mean of the plain predictions before and after.
    """

    own: tuple[float, ...]
    plain: tuple[float, ...]

    def record(self) -> dict[str, float]:
        """Medians over the turns, and the spread of the ratio."""
        ratios = [own / plain for own, plain in zip(self.own, self.plain, strict=True)]
        return dict(
            seconds=statistics.median(self.own),
            ratio=statistics.median(ratios),
            ratio_min=min(ratios),
            ratio_max=max(ratios),
        )


def time_turns(
    plain: Callable[[], object],
    calls: Sequence[Callable[[], object]],
    turns: int,
    device: torch.device,
    clock: Clock = time.perf_counter,
) -> list[Times]:
    """Time all calls in turn, ``turns`` times, with the plain model in between.

    Args:
        plain: predicts with the plain model.
        calls: what is measured.
        turns: how often.
        device: of the models.
        clock: as of `seconds_of`.

    Returns:
        `Times` of the plain model (each against the one before), then of every call.
    """
    own: list[list[float]] = [[] for _ in range(len(calls) + 1)]
    around: list[list[float]] = [[] for _ in range(len(calls) + 1)]
    before = seconds_of(plain, device, clock)
    progress = Progress(turns, 'turns')
    for _ in range(turns):
        # The plain model against itself: what a ratio of 1 looks like on this machine.
        again = seconds_of(plain, device, clock)
        own[0].append(again)
        around[0].append(before)
        before = again
        for index, call in enumerate(calls, 1):
            own[index].append(seconds_of(call, device, clock))
            after = seconds_of(plain, device, clock)
            around[index].append((before + after) / 2)
            before = after
        progress.step()
    return [Times(tuple(a), tuple(b)) for a, b in zip(own, around, strict=True)]


def measure_peaks(calls: Sequence[Callable[[], object]], device: torch.device) -> list[int]:
    """Peak memory of each, see `peak_memory`."""
    progress = Progress(len(calls), 'peak memories')
    found = []
    for call in calls:
        found.append(peak_memory(call, device))
        progress.step(f'{found[-1] / 2**20:.1f} MiB')
    return found


def count_waits(call: Callable[[], object], device: torch.device) -> Counter[str]:
    """How often one call makes the CPU wait for the GPU, by the line of Python; none on a CPU."""
    if device.type != 'cuda':
        return Counter()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            call()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    waits = (one for one in caught if 'synchronizing CUDA operation' in str(one.message))
    return Counter(f'{"/".join(Path(one.filename).parts[-2:])}:{one.lineno}' for one in waits)


def records(
    methods: Sequence[TimedMethod],
    times: Sequence[Times] | None,
    peaks: Sequence[int] | None,
    waits: Sequence[Counter[str]] | None = None,
) -> Iterator[dict[str, Any]]:
    """One record for the plain model and each method, ready for JSON.

    Args:
        methods: as measured.
        times: of the plain model and of each; None if not measured.
        peaks: in bytes, likewise.
        waits: of the CPU for the GPU, likewise; see `count_waits`.
    """
    names = [dict(method=PLAIN, budget=1, states=1.0, bound=1.0, difference=None)]
    names += [
        dict(
            method=one.name,
            budget=one.budget or round(one.states),
            states=one.states,
            bound=one.bound,
            difference=one.difference,
        )
        for one in methods
    ]
    for index, record in enumerate(names):
        if times:
            record |= times[index].record()
            record['quotient'] = record['ratio'] / record['bound'] if record['bound'] else None
        if peaks:
            record |= dict(peak_bytes=peaks[index], peak_ratio=peaks[index] / max(peaks[0], 1))
        if waits:
            record['waits'] = dict(waits[index])
        yield record


# ------------------------------------------------------------------------------------ the machine
def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    found = dict(
        cpu=_cpu_name(),
        cores=cores,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        device=str(device),
    )
    if device.type == 'cuda':
        found |= dict(gpu=torch.cuda.get_device_name(device), cuda=torch.version.cuda)
        found |= dict(tf32_convolutions=torch.backends.cudnn.allow_tf32)
    return found


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
