"""Formats of graphs: how a module is written to a file, and how the file is run."""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MissingPackageError, MMDiscardError

Run = Callable[[Tensor], Tensor]
INPUT, OUTPUT = 'images', 'output'
OPSET = 17  # of the TorchScript exporter: the first with layer normalization
LARGEST_FILE = 2**31  # of an ONNX file; what is larger keeps its weights beside it


class TorchExport:
    """`torch.export`: a file for `torch.export.load` and for AOTInductor."""

    def check(self) -> None:
        """Raise `MMDiscardError` unless this environment can write the format."""
        if not has_dynamic_export():
            raise MMDiscardError(
                f'--format torch-export needs a later PyTorch than {torch.__version__}, whose '
                'torch.export knows no dynamic shapes; use --format onnx'
            )

    def write(self, module: nn.Module, example: Tensor, dynamic: dict[int, Any], path: Path) -> int:
        """Write a module.

        Args:
            module: images ``(N, C, H, W)`` to a tensor.
            example: images to trace with.
            dynamic: by axis of the images, name and divisor of those that may have any length.
            path: file to write.

        Returns:
            The number of operations in the graph.
        """
        program = exported_program(module, example, dynamic)
        with open(path, 'wb') as file:  # PyTorch insists on a suffix for paths
            torch.export.save(program, file)
        return sum(node.op == 'call_function' for node in program.graph.nodes)

    def load(self, path: Path) -> Run:
        """The graph of a file, as a function of images."""
        with open(path, 'rb') as file:
            return torch.export.load(file).module()


class Onnx:
    """ONNX, by the exporter that builds on `torch.export`, in older PyTorch by TorchScript's."""

    def check(self) -> None:
        """Raise `MissingPackageError` if a package is absent that writes or runs the format."""
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise MissingPackageError(
                f"--format onnx: {error}; install the extra: pip install 'mmdiscard[export]'"
            ) from error

    def write(self, module: nn.Module, example: Tensor, dynamic: dict[int, Any], path: Path) -> int:
        """See `TorchExport.write`."""
        import onnx

        names = dict(input_names=[INPUT], output_names=[OUTPUT])
        if has_dynamic_export():
            program = exported_program(module, example, dynamic)
            large = sum(t.numel() * t.element_size() for t in module.state_dict().values())
            torch.onnx.export(
                program, f=str(path), external_data=large >= LARGEST_FILE, verbose=False, **names
            )
        else:
            axes = {axis: name for axis, (name, _) in dynamic.items()}
            out = {0: axes[0]}
            shapes = {INPUT: axes, OUTPUT: out}
            torch.onnx.export(
                module, (example,), str(path), opset_version=OPSET, dynamic_axes=shapes, **names
            )
        nodes = onnx.load(str(path), load_external_data=False).graph.node
        return sum(node.op_type != 'Constant' for node in nodes)

    def load(self, path: Path) -> Run:
        """See `TorchExport.load`; run by onnxruntime with as many threads as PyTorch."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
        return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


#: by the word of the command line
FORMATS = {'onnx': Onnx, 'torch-export': TorchExport}


def has_dynamic_export() -> bool:
    """Whether `torch.export` of this PyTorch can leave sizes open and traces without compiling."""
    export = getattr(getattr(torch, 'export', None), 'export', None)
    known = inspect.signature(export).parameters if export else {}
    return {'dynamic_shapes', 'strict'} <= set(known)


def exported_program(module: nn.Module, example: Tensor, dynamic: dict[int, Any]) -> Any:
    """The graph of a module, without what nothing in it uses.

    Args:
        module: images to a tensor.
        example: images to trace with.
        dynamic: see `TorchExport.write`.
    """
    Dim = torch.export.Dim
    shapes = {
        axis: Dim(name) if divisor == 1 else divisor * Dim(name)
        for axis, (name, divisor) in dynamic.items()
    }
    program = torch.export.export(module, (example,), dynamic_shapes=(shapes,), strict=False)
    # Operations in place would keep what leads to them: without these, shared prefixes go.
    program = program.run_decompositions({})
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of exporters, which speak to those who write models."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
