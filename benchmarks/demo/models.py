"""The three small models of the demo, which other comparisons run on too."""

from dataclasses import dataclass
from pathlib import Path

from mmdiscard.errors import MMDiscardError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'demo'


@dataclass(frozen=True)
class DemoModel:
    """One model of the demo; configs are file names in ``configs/demo``.

    Attributes:
        title: names it in tables.
        kind: of its data, ``'classification'`` or ``'segmentation'``.
        metric: as MM's evaluator names it.
        recommended: config with the recommended settings of mmdiscard.
        learned: config with a learned aggregator.
        published: config with the settings of the paper, if they differ.
        budgets: numbers of states in the figure of costs.
    """

    title: str
    kind: str
    metric: str
    recommended: str
    learned: str
    published: str | None = None
    budgets: tuple[int, ...] = (1, 2, 4, 8, 16)


DEMO_MODELS = {
    'classifier': DemoModel(
        title='ResNet-18 type classifier, top-1 accuracy (%)',
        kind='classification',
        metric='accuracy/top1',
        recommended='classifier_greedy-b4.py',
        learned='classifier_attention-b4.py',
    ),
    'segmentor_stride8': DemoModel(
        title='stride-8 ResNet segmentor, mIoU (%)',
        kind='segmentation',
        metric='mIoU',
        recommended='segmentor_stride8_spread-b4.py',
        learned='segmentor_stride8_phase-b4.py',
        published='segmentor_stride8_greedy-b4.py',
    ),
    'segmentor_mit': DemoModel(
        title='MiT + SegFormer head, mIoU (%)',
        kind='segmentation',
        metric='mIoU',
        recommended='segmentor_mit_spread-b4.py',
        learned='segmentor_mit_phase-b4.py',
        published='segmentor_mit_greedy-b4.py',
    ),
}


def checkpoints(folder: Path, name: str, seed: int | str = '*') -> list[Path]:
    """Checkpoints of a demo model, one for each seed.

    Args:
        folder: where the demo worked.
        name: of the model.
        seed: of the training; all by default.

    Raises:
        MMDiscardError: if there are none.
    """
    found = sorted(folder.glob(f'{name}/seed{seed}/iter_*.pth'))
    if not found:
        raise MMDiscardError(
            f'no checkpoints in {folder / name / f"seed{seed}"}: run `make demo` first'
        )
    return found
