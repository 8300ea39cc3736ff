"""The audit as a tool: one in its own process, and all of them against the page."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def audit(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, 'tools/audit_backbones.py', *args]
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


@pytest.mark.slow
def test_all_that_passed_still_do():
    done = audit('--check')
    assert done.returncode == 0, done.stderr
