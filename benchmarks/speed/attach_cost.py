"""What attaching costs, in plain forwards of one image at the size that is traced.

    python -m benchmarks.speed.attach_cost                    # the models below
    python -m benchmarks.speed.attach_cost mmseg::hrnet/fcn_hr18_4xb4-160k_ade20k-512x512.py

CPU time of one thread with random weights, the median of three runs.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import mmdiscard
from benchmarks.common.tables import markdown_table
from benchmarks.speed.timing import build_model, read_model_config

CONFIGS = (
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    'mmpretrain::resnet/resnet101_8xb32_in1k.py',
    'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py',
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
    'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py',
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'mmseg::segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py',
    'mmseg::hrnet/fcn_hr18_4xb4-160k_ade20k-512x512.py',
    'mmseg::hrnet/fcn_hr48_4xb4-160k_ade20k-512x512.py',
)
GROUPS = dict(groups='all')
SEARCH = dict(type='SpreadStates', budget=2)
TURNS = 3


def cpu_seconds(call: Callable[[], object]) -> float:
    """Median CPU time of ``call`` over `TURNS`."""
    times = []
    for _ in range(TURNS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


@torch.no_grad()
def measure(config: str) -> list[str]:
    """A row of the table."""
    model = build_model(read_model_config(config, {})[0])
    for module in model.modules():  # MMPretrain's ResNet overrides `eval`
        module.training = False
    image = torch.randn(1, 3, 224, 224)
    model.predict(image)
    forward = cpu_seconds(lambda: model.predict(image))
    found = cpu_seconds(lambda: mmdiscard.find_subsampling(model)) / forward
    alone, tested = (
        cpu_seconds(lambda on=on: mmdiscard.attach(model, GROUPS, SEARCH, self_test=on).detach())
        / forward
        for on in (False, True)
    )
    name = Path(config).stem
    return [name, f'{forward * 1000:.0f}', f'{found:.1f}', f'{alone:.1f}', f'{tested:.1f}']


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', default=CONFIGS)
    torch.set_num_threads(1)
    header = ['model', 'forward (ms)', 'discovery', 'attach without self-test', 'attach']
    rows = [measure(config) for config in parser.parse_args().configs]
    print('\n'.join(markdown_table(header, rows)))


if __name__ == '__main__':
    main()
