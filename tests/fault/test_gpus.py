"""GPUs that fail, vanish or are not what was thought: one sentence, soon, and other replicas serve on.

Needs a build with CUDA (SKEIN_BIN) and GPUs of compute capability 9.0; most of it two of them.
"""

import json
import os
import pathlib
import shutil
import signal
import stat
import time

import pytest

from gpus import GPUS, SMALL, cuda_build, one_gpu, two_gpus, with_driver
from skein_server import BIN, READY_S, ROOT, Reader, Server, Skein, wait_for

BREAKABLE = {"LD_PRELOAD": str(BIN / "libgpu_fault.so")}
ENDED_S = 5  # from the fault to the end of what the replica was doing
ENDLESS = 90_000
ASKED = {"prompt": [5, 6, 7], "seed": 1, "temperature": 1.0}


def ranks_of(server, replica_device=0):
    """The ranks of the replica whose first GPU that is, in order."""
    def first_device(rank):
        return json.loads(pathlib.Path(rank.launch).read_text())["first_device"]
    ranks = [rank for rank in server.processes("rank") if first_device(rank) == replica_device]
    return sorted(ranks, key=lambda rank: int(rank.environment("OMPI_COMM_WORLD_RANK")))


def start_streams(server, count):
    readers = [Reader(server.stream(**ASKED, max_tokens=ENDLESS)) for _ in range(count)]
    wait_for(lambda: all(len(reader.tokens) > 1 for reader in readers), "tokens on every stream")
    return readers


def break_gpu(rank, device):
    """The GPU fails in the middle of a step: gpu_fault.cu."""
    rank.kill(signal.SIGRTMIN + device)


def await_loss(server, readers, since):
    wait_for(lambda: all(reader.ended for reader in readers), "the lost replica's streams end", 2 * ENDED_S)
    assert time.monotonic() - since < ENDED_S
    for reader in readers:
        assert "lost" in reader.error["message"] and not reader.done
    lost = wait_for(lambda: server.logs("replica lost"), "the loss is logged")
    assert len(lost) == 1
    return lost[0]["cause"]


SHAPES = {"tp2": ["--tensor-parallel-size", 2], "pp2": ["--pipeline-parallel-size", 2]}


@two_gpus
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_rank_is_killed_under_load(long_model, shape, victim):
    with Server(long_model, *SMALL, *shape) as server:
        readers = start_streams(server, 4)
        since = time.monotonic()
        ranks_of(server)[victim].kill()
        await_loss(server, readers, since)
        wait_for(lambda: server.get("/readyz").status == 200, "ready again", READY_S)
        assert len(server.tokens(**ASKED)) == 16
        server.stop()


@two_gpus
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_gpu_fails_under_load(long_model, shape, victim):
    with Server(long_model, *SMALL, *shape, env=BREAKABLE) as server:
        readers = start_streams(server, 4)
        rank = ranks_of(server)[victim]
        since = time.monotonic()
        break_gpu(rank, victim)
        assert "GPU" in await_loss(server, readers, since)  # whichever rank was the first to notice
        wait_for(lambda: server.get("/readyz").status == 200, "ready again", READY_S)
        assert len(server.tokens(**ASKED)) == 16
        server.stop()


@two_gpus
def test_another_replica_serves_on(long_model):
    with Server(long_model, *SMALL, "--data-parallel-size", 2, env=BREAKABLE) as server:
        readers = start_streams(server, 4)
        rank = ranks_of(server, replica_device=1)[0]
        since = time.monotonic()
        break_gpu(rank, 1)
        wait_for(lambda: sum(reader.ended for reader in readers) == 2, "the lost replica's streams end", 2 * ENDED_S)
        assert time.monotonic() - since < ENDED_S
        assert server.get("/readyz").status == 200
        assert len(server.tokens(**ASKED)) == 16
        going_on = [reader for reader in readers if not reader.ended]
        before = [len(reader.tokens) for reader in going_on]
        wait_for(lambda: all(len(reader.tokens) > then for reader, then in zip(going_on, before)), "they go on")
        assert "GPU 1: " in wait_for(lambda: server.logs("replica lost"), "the loss is logged")[0]["cause"]
        for reader in readers:
            reader.close()
        wait_for(lambda: len(server.processes("rank")) == 2, "the lost replica's rank is back", READY_S)
        server.stop()


@one_gpu
def test_the_only_gpu_fails(long_model):
    with Server(long_model, *SMALL, env=BREAKABLE) as server:
        readers = start_streams(server, 2)
        since = time.monotonic()
        break_gpu(ranks_of(server)[0], 0)
        assert "GPU 0: " in await_loss(server, readers, since)
        wait_for(lambda: server.get("/readyz").status == 200, "ready again", READY_S)
        assert len(server.tokens(**ASKED)) == 16
        server.stop()


# ---- at start

def refused(model, *flags, env=None):
    with Skein("serve", model, "--port", 0, "--device", "cuda", *flags, env=env) as run:
        assert run.wait(30) == 1, run.err
        messages = run.messages()
        assert len(messages) == 1, run.err
        run.assert_nothing_left()
        return messages[0]


def rank_environments(folder, *values):
    """An mpirun that gives each rank a CUDA_VISIBLE_DEVICES of its own."""
    cases = "".join(f"{rank}) export CUDA_VISIBLE_DEVICES={value};;\n" for rank, value in enumerate(values))
    worker, mpirun = folder / "worker", folder / "mpirun"
    worker.write_text(f'#!/bin/sh\ncase "$OMPI_COMM_WORLD_RANK" in\n{cases}esac\nexec "$@"\n')
    mpirun.write_text('#!/bin/sh\nn=$(($# - 2))\ni=0\nfor a; do\n  shift\n  [ $i = $n ] && set -- "$@" "$WORKER"\n'
                      f'  set -- "$@" "$a"\n  i=$((i + 1))\ndone\nexec {shutil.which("mpirun")} "$@"\n')
    for path in (worker, mpirun):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "WORKER": str(worker)}


@cuda_build
def test_an_older_gpu(long_model, tmp_path):
    message = refused(long_model, env=with_driver(tmp_path, 8))
    assert "compute capability 8.0" in message and "9.0" in message and "--device cpu" in message


@cuda_build
def test_an_older_gpu_is_left_alone(long_model, tmp_path):
    with Skein("plan", long_model, env=with_driver(tmp_path, 8)) as run:
        assert run.wait() == 0, run.err
        assert "gpu       X" in run.out and run.messages() == []


@cuda_build
@pytest.mark.skipif(GPUS > 0, reason="has a driver")
def test_a_driver_that_cannot_run_cuda(long_model, tmp_path):
    assert "no NVIDIA GPU" in refused(long_model, *SMALL, env=with_driver(tmp_path, 9))


@cuda_build
@pytest.mark.skipif(GPUS > 0, reason="has a driver")
def test_no_driver(long_model):
    assert "no NVIDIA GPU" in refused(long_model)


@cuda_build
def test_a_hidden_gpu_is_not_planned_for(long_model, tmp_path):
    env = with_driver(tmp_path, 9) | {"CUDA_VISIBLE_DEVICES": "1"}
    assert "no NVIDIA GPU with a driver was found" in refused(long_model, env=env)


@cuda_build
def test_a_plan_counts_all_gpus(long_model, tmp_path):
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("nodes:\n  - {name: here, cores: 1, memory_gib: 8, devices: [{kind: NVIDIA H200}]}\n")
    env = with_driver(tmp_path, 9, name="NVIDIA H200") | {"CUDA_VISIBLE_DEVICES": "0"}
    assert "CUDA_VISIBLE_DEVICES is set, and a plan counts all GPUs" in refused(long_model, "--cluster", cluster, env=env)


@one_gpu
def test_no_gpu_that_may_be_used(long_model):
    assert "no NVIDIA GPU" in refused(long_model, env={"CUDA_VISIBLE_DEVICES": ""})


@two_gpus
def test_ranks_that_see_too_few_gpus(long_model, tmp_path):
    message = refused(long_model, "--tensor-parallel-size", 2, env=rank_environments(tmp_path, "0", "1"))
    assert "GPU 1 is not there" in message


@two_gpus
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_ranks_that_share_a_gpu(long_model, tmp_path, shape):
    message = refused(long_model, *shape, env=rank_environments(tmp_path, "0,1", "1,0"))
    assert "same GPU" in message and "CUDA_VISIBLE_DEVICES" in message


@one_gpu
def test_more_gpus_than_there_are(long_model):
    assert str(2 * GPUS) in refused(long_model, "--data-parallel-size", 2 * GPUS)


@one_gpu
def test_a_share_that_is_too_small():
    """A twentieth of a GPU does not hold 15 GiB of weights: nothing is loaded."""
    message = refused(ROOT / "configs/models/llama-3.1-8b", "--load-format", "dummy", "--gpu-memory-utilization", 0.05)
    assert "GiB" in message


# ---- GPUs that do not write to each other's memory

@pytest.fixture
def apart(long_model, tmp_path):
    """A model whose rows are no multiple of 16 bytes: all ranks leave sums to NCCL, as where GPUs cannot reach each other."""
    folder = tmp_path / "model"
    shutil.copytree(long_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 100}))
    return [folder, *SMALL, "--load-format", "dummy", "--tensor-parallel-size", 2]


@two_gpus
def test_deterministic_sums_need_peers(apart):
    message = refused(*apart, "--deterministic")
    assert "--deterministic" in message and "cannot write to each other's memory" in message


@two_gpus
def test_nccl_carries_sums_that_peers_cannot(apart):
    with Server(*apart, env={"NCCL_NVLS_ENABLE": "1"}) as server:
        assert [line["given"] for line in server.logs() if "multicast" in line["event"]] == ["1"]
        assert len(server.tokens(**ASKED, max_tokens=40)) == 40
        readers = start_streams(server, 4)
        since = time.monotonic()
        ranks_of(server)[1].kill()
        await_loss(server, readers, since)
        server.stop()
