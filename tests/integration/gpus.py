"""What GPUs this machine has for the build under test."""

import contextlib
import os
import subprocess

import pytest

from skein_server import BIN, expected

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
four_gpus = pytest.mark.skipif(GPUS < 4, reason="needs a build with CUDA and four GPUs")
SMALL = ["--device", "cuda", "--max-num-seqs", 8, "--max-num-batched-tokens", 128, "--kv-cache-memory-bytes", 1 << 30]

# As in tests/gpu/model_test.cpp, where they are justified.
WORST = 0.25
MEAN = 0.035


def agree_with_transformers(server, name):
    """Greedy tokens and log-probabilities of that fixture's prompts are those of transformers in float32."""
    differences = []
    for record in expected(name)["prompts"]:
        greedy = record["greedy"]
        choice = server.complete(record["tokens"], logprobs=1, prompt_logprobs=0)["choices"][0]
        for token, entry, logprob in zip(record["tokens"][1:], choice["prompt_logprobs"][1:], record["logprobs"]):
            differences.append(abs(entry[str(token)]["logprob"] - logprob))
        for found, right, margin in zip(choice["token_ids"], greedy["tokens"], greedy["margins"]):
            assert found == right or margin < WORST
            if found != right:
                break
    assert max(differences) < WORST and sum(differences) / len(differences) < MEAN


# The driver's management library with GPUs as with_driver() says, as far as topology/gpus.cpp asks. It answers nothing
# while there is a file hangs.
DRIVER = """
#include <string.h>
#include <unistd.h>
static void wait_there(void) { while (access(FOLDER "/hangs", F_OK) == 0) usleep(10000); }
static const int majors[] = {MAJORS};
int nvmlInit_v2(void) { wait_there(); return START; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) { wait_there(); *count = sizeof majors / sizeof *majors; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = (void*)(unsigned long)(index + 1);
  return majors[index] == 0 ? 15 : 0;  // lost
}
int nvmlDeviceGetName(void* device, char* name, unsigned bytes) { strcpy(name, NAME); return 0; }
int nvmlDeviceGetUUID(void* device, char* uuid, unsigned bytes) {
  strcpy(uuid, "GPU-0");
  uuid[4] += (unsigned long)device - 1;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void* device, unsigned long long* memory) {
  memory[0] = 80ull << 30;
  memory[1] = (unsigned long long)(FREE_GIB) << 30;
  memory[2] = memory[0] - memory[1];
  return 0;
}
int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
  *major = majors[(unsigned long)device - 1];
  *minor = 0;
  return 0;
}
"""


def with_driver(folder, *majors, name="X", free_gib=80, start=0):
    """The environment of a program that shall find that driver, made in the folder: a GPU of 80 GiB of each compute
    capability (0: it is lost); the driver starts with that status."""
    source, library = folder / "driver.c", folder / "libnvidia-ml.so.1"
    source.write_text(DRIVER)
    subprocess.run(["cc", "-w", "-shared", "-fPIC", f"-DMAJORS={','.join(map(str, majors))}", f"-DFREE_GIB={free_gib}",
                    f"-DSTART={start}", f'-DNAME="{name}"', f'-DFOLDER="{folder}"', "-o", library, source],
                   check=True)
    return {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
