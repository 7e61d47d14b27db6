"""Whether torch works here, and what it has to compute on."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from eosfm_cli.results import Finding

_GET_TORCH = "Choose a build at https://pytorch.org/get-started/locally/"
_GB = 2**30
_LITTLE_MEMORY = 4 * _GB
_LITTLE_SHARED = 2**29
_NVIDIA, _DISPLAY = "0x10de", "0x03"


def torch_build() -> Iterator[Finding]:
    """Which torch there is, and what it was built for."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("error", f"cannot be imported: {error}", f"Install it again. {_GET_TORCH}")
        return
    if torch.version.cuda:
        built = f"CUDA {torch.version.cuda}"
    else:
        built = f"ROCm {torch.version.hip}" if torch.version.hip else "the CPU"
    yield Finding("ok", f"{torch.__version__}, built for {built}")


def gpu() -> Iterator[Finding]:
    """What GPUs there are and whether they compute; if there are none, why."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if there:
        for index in range(torch.cuda.device_count()):
            yield _try_gpu(torch, index)
    elif torch.backends.mps.is_available():
        yield Finding("ok", "Apple's (MPS): training uses it, prediction runs on the CPU")
    else:
        complaints = [str(warning.message).splitlines()[0] for warning in said]
        yield no_gpu(
            nvidia_driver(),
            torch.version.cuda,
            card=_has_nvidia_card(),
            hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
            said=complaints[0] if complaints else "it does not say why",
        )


def _try_gpu(torch: ModuleType, index: int) -> Finding:
    name = torch.cuda.get_device_name(index)
    try:
        (torch.ones(8, 8, device=f"cuda:{index}") @ torch.ones(8, 8, device=f"cuda:{index}")).sum()
        torch.cuda.synchronize(index)
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        fix = f"Is it in use by others, or too new or too old for this torch? {_GET_TORCH}"
        return Finding("error", f"{name} cannot compute: {reason}", fix)
    driver = nvidia_driver()
    text = f"{name}, {free / _GB:.0f} of {total / _GB:.0f} GB free"
    text += f", driver {driver.version}" if driver else ""
    if free < _LITTLE_MEMORY:
        return Finding("warning", text, "Other programs take its memory: nvidia-smi shows them.")
    return Finding("ok", text)


class Driver(NamedTuple):
    """NVIDIA's driver."""

    version: str
    cuda: tuple[int, int]
    """The newest CUDA that it runs."""


def nvidia_driver() -> Driver | None:
    """NVIDIA's driver, if it works."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
            version = pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no library, no driver, one that is half there: no way to tell
        return None
    return Driver(str(version), (number // 1000, number % 1000 // 10))


def no_gpu(
    driver: Driver | None, built: str | None, *, card: bool, hidden: str | None, said: str
) -> Finding:
    """Why torch finds no GPU.

    Args:
        driver: NVIDIA's, if it works.
        built: The CUDA that torch was built for, if for any.
        card: Whether the machine has a GPU of NVIDIA's.
        hidden: What CUDA_VISIBLE_DEVICES says, if it is set.
        said: What torch complained of.
    """
    if driver is None and card:
        return Finding(
            "warning",
            "an NVIDIA GPU is there, but its driver does not answer",
            "Install or load NVIDIA's driver; in a container, start it with --gpus all.",
        )
    if driver is None:
        return Finding("ok", "none: everything runs on the CPU")
    if hidden in ("", "-1"):
        return Finding(
            "warning", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES"
        )
    if not built:
        return Finding("warning", "there is one, but torch was built for the CPU", _GET_TORCH)
    newest = ".".join(map(str, driver.cuda))
    if driver.cuda[0] < int(built.partition(".")[0]):
        return Finding(
            "warning",
            f"driver {driver.version} runs CUDA up to {newest}, and torch was built for {built}",
            f"Update the driver, or take a torch that was built for CUDA {newest} or older. "
            f"{_GET_TORCH}",
        )
    return Finding(
        "warning",
        f"driver {driver.version} is there, and torch finds no GPU: {said}",
        "Does nvidia-smi list one? After an update of the driver, restart the machine.",
    )


def _has_nvidia_card() -> bool:
    """Whether the bus has a display controller of NVIDIA's; only Linux tells."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text()
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            return True
    return False


# ------------------------------------------------------------------------------ the machine


def processors() -> Iterator[Finding]:
    """How many processors this process may use, and how many threads torch takes."""
    import torch

    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    usable = min(usable, _container_processors() or usable)
    threads = torch.get_num_threads()
    text = f"{usable} of {there} usable, torch computes in {threads} thread"
    text += "" if threads == 1 else "s"
    if threads > usable:
        yield Finding("warning", text, f"export OMP_NUM_THREADS={usable}")
    else:
        yield Finding("ok", text)


def _container_processors() -> int | None:
    """What a container is limited to; `None` where nothing says so."""
    quota, _, period = _control_group("cpu.max").partition(" ")
    return max(1, int(quota) // int(period)) if quota.isdigit() and period.isdigit() else None


def _control_group(name: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return ""


def memory() -> Iterator[Finding]:
    """How much memory is free, also where a container is limited."""
    free, total = memory_in_bytes()
    text = f"{free / _GB:.1f} of {total / _GB:.1f} GB free"
    if free < _LITTLE_MEMORY:
        yield Finding(
            "warning", text, "Close other programs, or take smaller batches: --batch-size 2"
        )
    else:
        yield Finding("ok", text)


def memory_in_bytes() -> tuple[int, int]:
    """What is free and what there is, of the machine or of the container."""
    import psutil

    found = psutil.virtual_memory()
    free, total, limit = found.available, found.total, _control_group("memory.max")
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        used = _control_group("memory.current")
        free = min(free, total - int(used)) if used.isdigit() else min(free, total)
    return free, total


def shared_memory() -> Iterator[Finding]:
    """Whether the processes that read data have room to hand over tiles."""
    if sys.platform != "linux":
        return
    free = shutil.disk_usage("/dev/shm").free
    text = f"{free / _GB:.1f} GB for the processes that read data (/dev/shm)"
    if free < _LITTLE_SHARED:
        yield Finding(
            "warning",
            text,
            "Start the container with --shm-size=2g, or read in the main process: "
            "--set training.workers=0",
        )
    else:
        yield Finding("ok", text)
