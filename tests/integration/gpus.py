"""What GPUs this machine has for the build under test."""

import contextlib
import subprocess

import pytest

from skein_server import BIN


CUDA_BUILD = (BIN / "libgpu_fault.so").exists()  # it is built with CUDA, and nowhere else


def count():
    if not CUDA_BUILD:
        return 0
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        return listed.stdout.count("GPU ") if listed.returncode == 0 else 0
    return 0


GPUS = count()
cuda_build = pytest.mark.skipif(not CUDA_BUILD, reason="needs a build with CUDA")
one_gpu = pytest.mark.skipif(GPUS < 1, reason="needs a build with CUDA and a GPU")
two_gpus = pytest.mark.skipif(GPUS < 2, reason="needs a build with CUDA and two GPUs")
SMALL = ["--device", "cuda", "--max-num-seqs", 8, "--max-num-batched-tokens", 128, "--kv-cache-memory-bytes", 1 << 30]
