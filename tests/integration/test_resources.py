"""What a server takes: next to no processor time while idle, and little more memory than its model and cache."""

import os
import time

import pytest

from skein_server import FIXTURES, MODEL, SANITIZED, SLOWER, Server, wait_for

TICKS = os.sysconf("SC_CLK_TCK")
IDLE_S = 5
OVERHEAD_KIB = 150 << 10  # of a replica, beside file and KV cache


@pytest.mark.parametrize("shape", [[], ["--tensor-parallel-size", 3], ["--pipeline-parallel-size", 2, "--data-parallel-size", 2]],
                         ids=["one rank", "tp3", "two of pp2"])
def test_an_idle_server_takes_under_two_per_cent_of_a_core(shape):
    """Processor time, not time: it does not matter what else the machine does. Best of three, for a busy one where
    every wake-up costs more."""
    with Server(FIXTURES / MODEL, *shape) as server:
        server.complete("warm up")
        server.assert_idle()
        processes = server.processes()
        assert {process.role for process in processes} == {"coordinator", "agent", "mpirun", "rank"}
        shares = []
        for _ in range(3):
            begun, before = time.monotonic(), sum(process.cpu_ticks() for process in processes)
            wait_for(lambda: time.monotonic() - begun > IDLE_S, "some seconds", 2 * IDLE_S)
            used = sum(process.cpu_ticks() for process in processes) - before
            shares.append(used / TICKS / (time.monotonic() - begun))
            if shares[-1] < 0.02 * SLOWER:
                break
        assert min(shares) < 0.02 * SLOWER, shares
        server.stop()


def replica_memory_kib(server):
    """Proportional shares of a replica's ranks, so that pages they share count once."""
    return sum(rank.memory_kib("Pss") for rank in server.processes("rank"))


@pytest.mark.skipif(SANITIZED, reason="the instrumentation takes memory of its own")
@pytest.mark.parametrize("ranks", [1, 3])
def test_resident_memory_of_a_real_model(smollm2, ranks, record_property):
    kv_bytes = 96 << 20
    flags = ["--max-model-len", 2048, "--kv-cache-memory-bytes", kv_bytes // ranks, "--tensor-parallel-size", ranks]
    with Server(smollm2, *flags) as server:
        server.post("/v1/completions", {"prompt": "geese " * 1500, "max_tokens": 16})
        memory = replica_memory_kib(server)
        record_property("resident_kib", memory)
        allowed = (smollm2.stat().st_size + kv_bytes >> 10) + OVERHEAD_KIB
        print(f"TP{ranks}: {memory >> 10} MiB resident of {allowed >> 10} allowed")
        assert memory <= allowed
        server.stop()
