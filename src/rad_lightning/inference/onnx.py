"""An exported network in onnxruntime. The file may be anybody's: time and memory are limited, and
what it answers is looked at."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np

from rad_lightning.common.errors import UserError

SECONDS = 60.0  # for an image, after which a network does not come to an end
MOST_BYTES = 16 * 2**30  # for all networks of this process; less where the machine has less
INPUTS = ("images", "boxes")
FATAL = 4  # onnxruntime's own lines say again what is raised


class OnnxBackend:
    """An exported network.

    Raises:
        UserError: onnxruntime is not installed or cannot read the file, or it is not a detector's.
    """

    def __init__(self, file: Path, device: str = "auto", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{file}: ONNX files need onnxruntime: pip install 'rad-lightning[onnx]'"
            ) from error
        cuda = "CUDAExecutionProvider"
        there = cuda in onnxruntime.get_available_providers()
        if device == "cuda" and not there:
            raise UserError("device=cuda: this onnxruntime has no CUDA; use auto or cpu")
        providers = ["CPUExecutionProvider"]
        if device != "cpu" and there:
            providers.insert(0, cuda)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        if limited_memory():
            options.add_session_config_entry("session.use_env_allocators", "1")
        if threads:
            options.intra_op_num_threads = threads
        self.file, self.run_options = file, onnxruntime.RunOptions
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=providers)
        except Exception as error:  # its errors share no base class
            raise UserError(f"{file}: not readable by onnxruntime ({first_line(error)})") from error
        self.inputs = [i.name for i in self.session.get_inputs()]
        if "images" not in self.inputs or set(self.inputs) - set(INPUTS):
            raise UserError(
                f"{file}: not an exported detector, its inputs are {', '.join(self.inputs)}"
            )

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        given = dict(zip(INPUTS, (images, boxes), strict=True))
        options = self.run_options()
        options.log_severity_level = FATAL
        limit = SECONDS * len(images)
        end = Timer(limit, setattr, (options, "terminate", True))
        end.daemon = True
        end.start()
        try:
            found: list[Any] = self.session.run(
                None, {name: given[name] for name in self.inputs}, options
            )
        except Exception as error:
            if options.terminate:
                raise UserError(
                    f"{self.file}: the network did not come to an end in {limit:.0f} s"
                ) from None
            raise UserError(f"{self.file}: cannot be run ({first_line(error)})") from error
        finally:
            end.cancel()
        return tuple(np.asarray(part) for part in found)


@cache
def limited_memory() -> bool:
    """Keep what onnxruntime takes from the main memory below a limit; ``False`` where whoever uses
    this package has set another one."""
    import onnxruntime as ort

    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    arena = ort.OrtArenaCfg({"max_mem": min(MOST_BYTES, there // 2)})
    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    try:
        ort.create_and_register_allocator(place, arena)
    except Exception:
        return False
    return True


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
