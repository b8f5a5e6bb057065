"""A trunk as machine code: a library that AOTInductor made for one number of rows.

It is called by the C functions that every such library has (torch's ``aoti_runtime/interface.h``),
and not by torch's own runner, which keeps Python's lock until the last layer is done: no other
batch could begin, and no picture be answered, meanwhile.
"""

import ctypes
import weakref
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p, py_object
from pathlib import Path

import torch
from torch import Tensor

_AT_ONCE = 4  # batches on a processor; further ones would wait for them

_tensors = torch._C._aoti  # noqa: SLF001 - torch has no public names for them
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = c_void_p, [py_object, c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = py_object, [c_void_p, c_char_p, c_void_p]


class Program:
    """Machine code of a function of one tensor, for any thread, without gradients.

    Args:
        library: a file that AOTInductor made for this processor. The code in it is run.

    Raises:
        OSError: it is no library.
        RuntimeError: it cannot be set up.
    """

    def __init__(self, library: Path) -> None:
        functions = ctypes.CDLL(str(library))
        self._name = library.name
        self._run = functions.AOTInductorModelContainerRun
        self._run.argtypes = [
            c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_void_p), c_size_t, c_void_p, c_void_p,
        ]  # fmt: skip
        create = functions.AOTInductorModelContainerCreateWithDevice
        create.argtypes = [POINTER(c_void_p), c_size_t, c_char_p, c_char_p]
        self._container = c_void_p()
        self._check(create(byref(self._container), _AT_ONCE, b"cpu", None))
        delete = functions.AOTInductorModelContainerDelete
        delete.argtypes = [c_void_p]
        weakref.finalize(self, delete, self._container)  # the library itself stays: code is small

    def __call__(self, x: Tensor) -> Tensor:
        """Of exactly the shape, type and layout that it was made for: nothing is checked."""
        given = c_void_p(_address(_tensors.unsafe_alloc_void_ptr_from_tensor(x), None))
        made = c_void_p()
        with torch.no_grad():
            failed = self._run(self._container, byref(given), 1, byref(made), 1, None, None)
        self._check(failed)
        # Not by the function for one tensor, which keeps it in memory for ever.
        handles = [_capsule(made, None, None)]
        result: Tensor = _tensors.alloc_tensors_by_stealing_from_void_ptrs(handles)[0]
        return result

    def _check(self, failed: int) -> None:
        if failed:
            raise RuntimeError(f"{self._name} failed; the lines before this one say at what")
