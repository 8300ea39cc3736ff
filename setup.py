"""What `setup.cfg` cannot say: a second copy of configs and tools, where onedl-mim looks for them.

onedl-mim (0.5) takes the folder of the first file that pip lists for the folder of the package. For
a distribution that is called like its package this is the folder of the metadata. openmim and
MMEngine read `mmdiscard/.mim`.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.egg_info import egg_info


class MetadataWithMim(egg_info):
    def run(self) -> None:
        super().run()
        source, target = Path(__file__).parent / 'mmdiscard' / '.mim', Path(self.egg_info) / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))


setup(cmdclass={'egg_info': MetadataWithMim})
