"""What is planned for GPUs that are not as a user may think: why others, or CPUs, are taken, or what to change.

Needs a build with CUDA (SKEIN_BIN), and no GPU: the test makes the driver.
"""

import json

import pytest

from gpus import cuda_build, with_driver
from skein_server import FIXTURES, MODEL, REFUSED_S, ROOT, Server, Skein

TINY = FIXTURES / MODEL
LARGE = ROOT / "configs/models/llama-3.1-8b"
pytestmark = cuda_build


def plan(env, *flags, model=TINY):
    with Skein("plan", model, *flags, env=env) as run:
        assert run.wait(REFUSED_S) == 0, run.err
        return run.out


def refused(env, *flags, model=TINY):
    with Skein("plan", model, *flags, env=env) as run:
        assert run.wait(REFUSED_S) == 1, run.out
        (message,) = run.messages()
        return message


def with_sizes(folder, **sizes):
    config = json.loads((TINY / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | sizes))
    return folder


@pytest.mark.parametrize("driver, visible, says", [
    ({"majors": [8, 9]}, None, "GPU 0 (X) has compute capability 8.0, and the CUDA backend needs 9.0"),
    ({"majors": [8, 9]}, None, ": name only the others in CUDA_VISIBLE_DEVICES"),
    ({"majors": [9], "start": 18}, None, "the NVIDIA driver does not answer (NVML status 18)"),
    ({"majors": [0]}, None, "GPU 0 of the driver's does not answer (NVML status 15)"),
    ({"majors": [9, 9]}, "", "CUDA_VISIBLE_DEVICES= hides all of this machine's 2 GPUs"),
    ({"majors": [9, 9]}, "x", "CUDA_VISIBLE_DEVICES=x hides all of this machine's 2 GPUs"),
])
def test_why_cpus_are_taken(tmp_path, driver, visible, says):
    env = with_driver(tmp_path, *driver["majors"], start=driver.get("start", 0))
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    (note,) = [line for line in plan(env).splitlines() if line.startswith("note ")]
    assert says in note and note.endswith("; this runs on CPUs")
    assert "note " not in plan(env, "--device", "cpu")
    with Server(TINY, env=env) as server:
        assert len(server.logs("plan: " + note.removeprefix("note").strip())) == 1


def test_a_lost_gpu_beside_another(tmp_path):
    text = plan(with_driver(tmp_path, 0, 9))
    assert text.count("gpu  ") == 1 and "GPU 0 of the driver's does not answer" in text and "CPUs" not in text


def test_gpus_hidden_by_mistake(tmp_path):
    text = plan(with_driver(tmp_path, 9, 9) | {"CUDA_VISIBLE_DEVICES": "1,2"})
    assert text.count("gpu  ") == 1 and "names 2, which is none of this machine's 2 GPUs" in text


def test_a_planned_machine_tells_too(tmp_path):
    env = with_driver(tmp_path, 9, start=18)
    assert "note        the NVIDIA driver does not answer (NVML status 18)" in plan(env, "--cluster", "here")
    with Skein("topology", env=env) as run:
        assert run.wait(REFUSED_S) == 0 and "the NVIDIA driver does not answer" in run.out + run.err


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("flags, says", [
    (["--dtype", "float32"], "use --dtype auto or bfloat16, not float32, or --device cpu"),
    (["--kv-cache-dtype", "float16"], "use --kv-cache-dtype auto or bfloat16, not float16, or --device cpu"),
])
def test_formats(tmp_path, flags, says, device):
    assert says in refused(with_driver(tmp_path, 9), *flags, "--device", device)


@pytest.mark.parametrize("sizes, says", [
    ({"head_dim": 20}, "attention heads of size 20 do not run on GPUs"),
    ({"head_dim": 512}, "attention heads of size 512 do not run on GPUs"),
    ({"hidden_size": 16400}, "a hidden size of 16400 does not run on GPUs"),
])
def test_sizes_that_no_kernel_takes(tmp_path, sizes, says):
    env = with_driver(tmp_path, 9)
    message = refused(env, "--load-format", "dummy", model=with_sizes(tmp_path, **sizes))
    assert says in message and "--device cpu" in message
    plan(env, "--load-format", "dummy", "--device", "cpu", model=tmp_path)


def test_blocks_that_make_attention_slow(tmp_path):
    env = with_driver(tmp_path, 9)
    says = "note      GPUs have no fast attention for KV blocks of 48 tokens: use --block-size 16, 32 or 64\n"
    assert says in plan(env, "--block-size", 48)
    assert "note " not in plan(env, "--block-size", 32)
    assert "note " not in plan(env, "--block-size", 48, "--device", "cpu")


def test_a_gpu_that_others_use(tmp_path):
    message = refused(with_driver(tmp_path, 9, free_gib=5), "--load-format", "dummy", model=LARGE)
    assert "GPU 0 (X) has 5.0 GiB of 80.0 GiB free, as other processes hold the rest" in message
    assert "CUDA_VISIBLE_DEVICES" in message
    message = refused(with_driver(tmp_path, 9, 9, free_gib=5) | {"CUDA_VISIBLE_DEVICES": "1"}, "--load-format", "dummy", model=LARGE)
    assert "GPU 0 of those that CUDA_VISIBLE_DEVICES shows (X, GPU-1) has 5.0 GiB of 80.0 GiB free" in message


def test_a_plan_leaves_no_folder(tmp_path):
    plan(with_driver(tmp_path, 9) | {"XDG_CACHE_HOME": str(tmp_path / "caches")})
    assert not (tmp_path / "caches").exists()
