"""A pretended second device: its tensors refuse to be mixed with those of the CPU, as on a real GPU.

So code that forgets to move a tensor is found on a machine without one. Its numbers are the CPU's own. A CPU
tensor may be a scalar, an index, or one side of a copy, as on CUDA.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE = torch.device("privateuseone", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class There(Tensor):
    """A tensor of the pretended device; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        form = {"layout": here.layout} if here.is_sparse else {"strides": here.stride()}
        made = Tensor._make_wrapper_subclass(cls, here.shape, dtype=here.dtype, device=THERE, **form)
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here!r})"

    def tolist(self) -> Any:
        return self.here.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of the pretended device to numpy; use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it is entered, tensors can be made on, and moved to, the pretended device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    moved = any(isinstance(x, There) for x in tensors)
    if moved:
        _check(func, args, tensors)
    if func is aten._fused_sdp_choice.default and moved:
        return 0  # plain matrix products: the fast kernels are chosen by device
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if kwargs.get("device") is not None:
        moved = torch.device(kwargs["device"]).type == THERE.type
        kwargs["device"] = torch.device("cpu")
    results = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if func._schema.is_mutable:
        return _originals(results, tensors)
    return tree_map(lambda x: There(x) if isinstance(x, Tensor) and moved else x, results)


def _here(x: Any) -> Any:
    return x.here if isinstance(x, There) else x


def _originals(results: Any, tensors: list[Tensor]) -> Any:
    """What an operation in place returns: the very tensors that it was given."""
    known = {id(_here(x)): x for x in tensors}
    return tree_map(lambda x: known.get(id(x), x) if isinstance(x, Tensor) else x, results)


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raises RuntimeError where CUDA would."""
    if func in COPIES:
        return
    if func in INDEXING and isinstance(args[0], There):
        tensors = [args[0], *(x for x in args[2:] if isinstance(x, Tensor))]
    strangers = [x for x in tensors if not isinstance(x, There) and x.dim() > 0]
    if strangers:
        raise RuntimeError(f"{func} has tensors of two devices: {[(x.device, x.shape) for x in tensors]}")


@contextlib.contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Meanwhile there is a second device."""
    _register()
    # wrapped tensors can be frozen, but not be tensors of inference mode
    monkeypatch.setattr(torch.inference_mode, "__enter__", lambda self: torch.no_grad.__enter__(self))
    monkeypatch.setattr(torch.inference_mode, "__exit__", lambda self, *e: torch.no_grad.__exit__(self, *e))
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with Elsewhere():
            yield THERE
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


@functools.cache
def _register() -> None:
    """Once in a process: the device's name is known, and guards of it do nothing."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError:
        pytest.skip("this torch has no devices that are made in Python")
    _setup_privateuseone_for_python_backend()
