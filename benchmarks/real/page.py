"""Write `benchmarks/real/RESULTS.md` and the figures of the docs from the recorded figures.

python -m benchmarks.real.page
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.figures import pyplot, save_figure
from benchmarks.common.files import read_results
from mmdiscard.utils import write_text

from . import (
    choices,
    classifier_report,
    learned,
    segmentor_report,
    uncertainty_report,
    windows_report,
)

PAGE = Path('benchmarks/real/RESULTS.md')
FIGURE = Path('docs/images/real.png')
WINDOWS_FIGURE = Path('docs/images/unsure_cost.png')
SHOWN = {
    'segmentors': ('2 states', '4 states', 'flip', 'flip, 2 states each', 'three sizes')
    + ('plain and smaller flip', 'plain and larger flip', 'three sizes and flip'),
}
INTRODUCTION = """\
# Real models on real images

Made by `python -m benchmarks.real.page` from `segmentors.json`, `classifiers.json`,
`uncertainty.json`, `windows.json`, `learned.json` and `choices.json`. What the figures mean and
how to repeat them is in [docs/results.md](../../docs/results.md).

Costs are multiply-accumulates in plain forwards. *Mended* and *broken* are predictions (of images,
or percent of pixels) that became right and wrong. *NLL* is the mean negative log likelihood, *ECE*
the expected calibration error in percent, *unstable* the percentage of predictions that change when
the image moves by one pixel.
"""


def segmentor_sections(results: Sequence[dict]) -> list[str]:
    """A section per segmentor."""
    lines = [
        '## Segmentors',
        '',
        'CamVid, 480 x 360 pixels; mIoU; 95 % intervals by paired bootstrap over images.',
        '*States* without a group are of the deepest group that all levels read by the head have',
        'passed; they are aligned exactly.',
    ]
    for one in results:
        title = f'{one["model"]}: {one["seeds"]} training(s), {one["images"]} {one["split"]} images'
        lines += ['', f'### {title}', '', *segmentor_report.main_table(one['rows'])]
        lines += ['', 'Per class, IoU:', '', *segmentor_report.class_table(one['rows'])]
        lines += [
            '',
            'Gain where a procedure is used in the least sure tiles alone (mean entropy of the',
        ]
        lines += ['plain prediction), by share of the tiles:', '']
        lines += segmentor_report.tile_table(one['tiles'])
        if one.get('gates'):
            lines += ['', 'Gain where it is used for the least sure images alone (mean entropy of']
            lines += ['the plain prediction):', '', *segmentor_report.gate_table(one['gates'])]
        lines += ['', 'Right pixels in percent by where they lie, and gain in points:', '']
        lines += segmentor_report.place_table(one['places'])
    return lines


def classifier_sections(results: Sequence[dict]) -> list[str]:
    """A section per classifier, size and corruption."""
    lines = [
        '## Classifiers',
        '',
        'ImageNet validation images; top-1 in percent; logits are averaged; 95 % intervals of',
        'paired differences. *Gain* is on all images. *Chosen on* and *reported on* are two halves',
        '(seed 0): what was chosen by looking was chosen on the first, and counts on the second.',
    ]
    for one in results:
        title = f'{one["model"]}, {one["size"]} px'
        if one['corruption'] != 'none':
            title += f', {one["corruption"]}'
        rows = [classifier_report.Row(**row) for row in one['rows']]
        lines += ['', f'### {title}, {one["images"]} images', '', *classifier_report.table(rows)]
    return lines


def draw(segmentors: Sequence[dict], path: Path) -> None:
    """Gain against cost, a panel per segmentor, with 95 % intervals."""
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(segmentors), figsize=(5 * len(segmentors), 3.6), squeeze=False
    )
    for axis, one in zip(axes[0], segmentors, strict=True):
        rows = [row for row in one['rows'] if row['procedure'] in SHOWN['segmentors']]
        for row in rows:
            gain, low, high = row['gain']
            axis.errorbar(row['cost'], gain, [[gain - low], [high - gain]], marker='o', capsize=2)
            axis.annotate(
                row['procedure'], (row['cost'], gain), (4, 4), textcoords='offset points', size=7
            )
        axis.set_xlim(1, 8.5)  # with room for the names
        axis.axhline(0, color='grey', linewidth=0.8)
        axis.set_title(one['model'].split('_1xb8')[0])
        axis.set_xlabel('cost (plain forwards)')
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel('gain in mIoU (points)')
    save_figure(figure, path)


def main() -> int:
    """Write page and figure; returns the exit status."""
    segmentors = list(read_results(segmentor_report.JSON).values())
    classifiers = list(read_results(classifier_report.JSON).values())
    lines = [INTRODUCTION, *segmentor_sections(segmentors), '', *classifier_sections(classifiers)]
    lines += ['', *uncertainty_report.sections(read_results(uncertainty_report.JSON))]
    windows = read_results(windows_report.JSON)
    lines += ['', *windows_report.sections(windows)]
    lines += ['', *learned.sections(read_results(learned.JSON))]
    lines += ['', *choices.sections(read_results(choices.JSON))]
    write_text(PAGE, '\n'.join(lines) + '\n')
    draw(segmentors, FIGURE)
    windows_report.draw(windows, WINDOWS_FIGURE)
    return 0


if __name__ == '__main__':
    sys.exit(main())
