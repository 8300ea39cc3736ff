"""The audit as a tool: one in its own process, and all of them against the page."""

import subprocess
import sys
from pathlib import Path

from benchmarks.backbones.page import read_results
from benchmarks.backbones.run import PAGE, entries

ROOT = Path(__file__).parents[2]


def audit(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'benchmarks.backbones.run', *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_some_still_pass():
    done = audit('--check', '--only', 'resnet18', 'UNet', 'MixVisionTransformer')
    assert done.returncode == 0, done.stderr
    assert '[3/3' in done.stdout and '2 of 3 (67 %)' in done.stdout
    assert 'attn.sr' in done.stdout  # not on the trunk


def test_one_that_takes_too_long_costs_its_own_row():
    done = audit('--check', '--only', 'resnet18', 'InterpConv', '--limit', '0')
    assert done.returncode == 1
    assert 'took longer than 0 s' in done.stdout and 'timm resnet18' in done.stderr


def test_names_are_checked():
    done = audit('--only', 'NoSuchNet')
    assert done.returncode == 2 and "no backbone 'NoSuchNet'" in done.stderr


def test_every_backbone_has_a_row_that_explains_itself():
    listed = {(package, name) for package, name, _ in entries(None)}
    rows = read_results(PAGE.read_text())
    assert rows.keys() == listed
    families = [name for package, name in rows if package == 'timm']
    assert len(families) >= 12
    for line in PAGE.read_text().splitlines():
        if line.startswith(('| mmpretrain |', '| mmseg |', '| timm |')):
            _, _, name, result, _, _, remark, _ = line.split('|')
            assert result.strip() == 'searched' or remark.strip(), name


def test_the_share_of_those_that_are_searched():
    results = [result for result, _ in read_results(PAGE.read_text()).values()]
    good, bad = results.count('searched'), results.count('partly') + results.count('not supported')
    assert good / (good + bad) >= 0.9
