"""Processes of a running server are killed: who loses what, who goes on, and what comes back."""

import contextlib
import ctypes
import os
import signal
import time

import pytest

from skein_server import GONE_S, READY_S, SLOWER, Reader, Server, wait_for

ENDLESS = 90_000  # tokens
LENGTH = 500  # tokens that are compared
ASKED = {"prompt": [5, 6, 7], "seed": 1, "temperature": 1.0}
NOTICED_S = 2 + 3 * SLOWER  # a lost rank is noticed within 2 s; the rest is for a busy machine
TWO_OF_TP2 = ["--dtype", "float32", "--tensor-parallel-size", 2, "--data-parallel-size", 2]
TWO_OF_PP2 = ["--dtype", "float32", "--pipeline-parallel-size", 2, "--data-parallel-size", 2]


def ranks_of(server, launch):
    """The ranks of a replica's first launch, in order."""
    ranks = [rank for rank in server.processes("rank") if f"replica-{launch}" in rank.launch]
    return sorted(ranks, key=lambda rank: int(rank.environment("OMPI_COMM_WORLD_RANK")))


def mpirun_of(server, launch):
    return next(process for process in server.processes("mpirun") if f"replica-{launch}" in process.launch)


VICTIMS = {
    "leader of tp2": (TWO_OF_TP2, lambda server: ranks_of(server, 1)[0]),
    "other rank of tp2": (TWO_OF_TP2, lambda server: ranks_of(server, 2)[1]),
    "first stage": (TWO_OF_PP2, lambda server: ranks_of(server, 1)[0]),
    "last stage": (TWO_OF_PP2, lambda server: ranks_of(server, 2)[1]),
    "mpirun": (TWO_OF_TP2, lambda server: mpirun_of(server, 1)),
}


def values(server, name):
    """By replica."""
    return [value for (key, _), value in sorted(server.metrics().items()) if key == name]


def start_streams(server, count):
    """Endless answers, under way, spread over two replicas."""
    before = values(server, "skein_replica_steps_total")
    readers = [Reader(server.stream(**ASKED, max_tokens=ENDLESS)) for _ in range(count)]
    wait_for(lambda: all(len(reader.tokens) > 1 for reader in readers), "tokens on every stream")
    # Not the sequences that run now: a reader that cannot keep up with a tiny model is cut off after a while.
    wait_for(lambda: all(now > then for now, then in zip(values(server, "skein_replica_steps_total"), before)),
             "steps on each replica")
    return readers


@pytest.mark.parametrize("shape,victim", VICTIMS.values(), ids=VICTIMS.keys())
def test_one_replica_is_lost_and_comes_back(long_model, shape, victim):
    with Server(long_model, *shape) as server:
        right = server.tokens(**ASKED, max_tokens=LENGTH)
        readers = start_streams(server, 4)
        before = {process.pid for process in server.processes("rank")}

        victim(server).kill()
        killed = time.monotonic()
        wait_for(lambda: sum(reader.ended for reader in readers) == 2, "the lost replica's streams end", GONE_S)
        assert time.monotonic() - killed < NOTICED_S
        assert server.get("/readyz").status == 200, "the other replica serves"
        assert server.tokens(**ASKED, max_tokens=LENGTH) == right

        for reader in readers:
            if reader.ended:
                assert "lost" in reader.error["message"] and not reader.done and reader.reason in (None, "error")
            else:
                wait_for(lambda: len(reader.tokens) >= LENGTH, "the other replica's streams go on")
                assert not reader.ended
            common = min(LENGTH, len(reader.tokens))
            assert reader.tokens[:common] == right[:common]
            reader.close()

        lost = server.logs("replica lost")
        assert len(lost) == 1 and lost[0]["requests"] == 2 and lost[0]["retry_in_ms"] > 0 and lost[0]["cause"]
        wait_for(lambda: values(server, "skein_replica_ready") == [1, 1], "both replicas ready again", READY_S)
        assert server.total("skein_replica_launches_total") == 3
        assert server.total("skein_replica_losses_total") == 1
        assert len({process.pid for process in server.processes("rank")} & before) == 2, "the other's ranks stayed"
        server.assert_idle()
        readers = start_streams(server, 2)
        for reader in readers:
            wait_for(lambda: len(reader.tokens) >= LENGTH, "both replicas answer")
            assert reader.tokens[:LENGTH] == right
            reader.close()
        server.assert_idle()
        server.stop()


def test_the_only_replica_is_lost(long_model):
    with Server(long_model, "--dtype", "float32") as server:
        right = server.tokens(**ASKED)
        reader = Reader(server.stream(**ASKED, max_tokens=ENDLESS))
        wait_for(lambda: len(reader.tokens) > 1, "a stream under way")
        server.processes("rank")[0].kill()
        wait_for(lambda: reader.ended, "the stream ends", GONE_S)
        assert "lost" in reader.error["message"]
        assert server.get("/livez").status == 200, "the server itself lives"
        assert server.get("/readyz").status == 503
        reply = server.post("/v1/completions", {"prompt": "x"})
        assert reply.status == 503 and reply.error["message"]
        wait_for(lambda: server.get("/readyz").status == 200, "ready again", READY_S)
        assert server.tokens(**ASKED) == right
        server.assert_idle()
        server.stop()


PTRACE_SEIZE = 0x4206
WALL = 0x40000000  # __WALL


@contextlib.contextmanager
def kept(process):
    """Killed meanwhile, it is not gone before this ends: as if the kernel took long to take it down."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    if libc.ptrace(PTRACE_SEIZE, process.pid, 0, 0) != 0:
        pytest.skip(f"cannot trace a process here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.waitpid(process.pid, WALL)


def test_nothing_is_launched_over_what_a_launch_has_left(long_model):
    """A rank that is being taken down still holds memory, which the next launch would miss."""
    with Server(long_model, *TWO_OF_TP2[:4]) as server:
        ranks = ranks_of(server, 1)
        with kept(ranks[1]):
            for rank in ranks:
                rank.kill()
            waits = "agent: a launch waits for processes of an earlier one to end"
            assert wait_for(lambda: server.logs(waits), lambda: f"that it waits: {server.err}", READY_S)[0]["processes"] == 1
            assert server.processes("mpirun") == []
        wait_for(lambda: server.get("/readyz").status == 200, "a new launch", READY_S)
        assert server.total("skein_replica_launches_total") == 2 and len(server.logs("replica lost")) == 1
        server.stop()


def test_a_rank_that_is_stuck(long_model):
    """Alive, but it does not go on: no process ends, no connection closes."""
    with Server(long_model, "--dtype", "float32", "--tensor-parallel-size", 2, "--step-timeout", 2) as server:
        right = server.tokens(**ASKED)
        reader = Reader(server.stream(**ASKED, max_tokens=ENDLESS))
        wait_for(lambda: len(reader.tokens) > 1, "a stream under way")
        before = {process.pid for process in server.processes("rank")}
        server.processes("rank")[-1].kill(signal.SIGSTOP)
        wait_for(lambda: reader.ended, "the stream ends", GONE_S)
        assert "a step has not ended within the step-timeout" in reader.error["message"]
        reader.close()
        wait_for(lambda: server.get("/readyz").status == 200, "a new launch", READY_S)
        assert not before & {process.pid for process in server.processes()}, "the stuck rank has gone, too"
        # Nothing to do is not being stuck.
        time.sleep(3)
        assert server.tokens(**ASKED) == right
        assert server.total("skein_replica_losses_total") == 1
        server.assert_idle()
        server.stop()


def test_a_replica_lost_again_and_again_is_started_less_often(long_model):
    with Server(long_model) as server:
        for losses in (1, 2, 3):
            wait_for(lambda: server.get("/readyz").status == 200, "ready", READY_S)
            wait_for(lambda: server.processes("rank"), "a rank")[0].kill()
            wait_for(lambda: len(server.logs("replica lost")) == losses, "the loss is logged", GONE_S)
        waits = [lost["retry_in_ms"] for lost in server.logs("replica lost")]
        assert waits == sorted(set(waits)) and waits[-1] >= 4 * waits[0]
        server.stop()


def test_a_rank_that_dies_while_a_replica_comes_back(long_model):
    """Not the server's end, as it would be at first start: the replica is tried once more."""
    with Server(long_model) as server:
        first = server.processes("rank")[0]
        first.kill()
        wait_for(lambda: [rank for rank in server.processes("rank") if rank.pid != first.pid], "a new rank")[0].kill()
        wait_for(lambda: server.get("/readyz").status == 200, "ready at last", READY_S)
        assert server.process.poll() is None
        server.stop()


def test_the_agent_is_killed(long_model):
    """It owns every replica: the server ends, says so, and leaves nothing."""
    with Server(long_model, *TWO_OF_TP2) as server:
        readers = start_streams(server, 2)
        server.processes("agent")[0].kill()
        assert server.wait() == 1
        assert len(server.messages()) == 1 and "agent" in server.messages()[0]
        server.assert_nothing_left()
        for reader in readers:
            wait_for(lambda: reader.ended, "the stream ends", GONE_S)
            assert "lost" in reader.error["message"]
            reader.close()


@pytest.mark.parametrize("shape", [TWO_OF_TP2, TWO_OF_PP2], ids=["tp2", "pp2"])
def test_the_coordinator_is_killed(long_model, shape):
    """Nothing outlives it by more than its lease."""
    with Server(long_model, *shape) as server:
        readers = start_streams(server, 2)
        server.process.kill()
        server.assert_nothing_left()
        for reader in readers:
            wait_for(lambda: reader.ended, "the stream ends", GONE_S)
            reader.close()
