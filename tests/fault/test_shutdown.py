"""Ends that are asked for: SIGTERM and SIGINT, while idle, loading or busy."""

import os
import signal
import stat
import subprocess
import time

import pytest

from skein_server import EXIT_S, FIXTURES, MODEL, READY_S, Reader, Server, Skein, wait_for

TINY = FIXTURES / MODEL
ENDLESS = 90_000


def start_stream(server, length):
    reader = Reader(server.stream([5, 6, 7], max_tokens=length))
    wait_for(lambda: len(reader.tokens) > 1, "a stream under way")
    return reader


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle(number):
    with Server(TINY, "--tensor-parallel-size", 2, "--data-parallel-size", 2) as server:
        server.stop(number)
        assert server.out.endswith("skein: shutting down\n")
        assert server.messages() == []


@pytest.mark.parametrize("shape", [[], ["--tensor-parallel-size", 2], ["--pipeline-parallel-size", 2]],
                         ids=["one rank", "tp2", "pp2"])
def test_a_running_answer_is_finished(long_model, shape):
    length = 2000
    with Server(long_model, "--dtype", "float32", *shape) as server:
        right = server.tokens([5, 6, 7], max_tokens=length)
        reader = start_stream(server, length)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/readyz").status == 503, "readiness is off")
        assert not reader.ended, "make the answer longer"
        assert server.get("/livez").status == 200
        refused = server.post("/v1/completions", {"prompt": "x"})
        assert refused.status == 503 and "shutting down" in refused.error["message"]
        assert server.wait(READY_S) == 0
        wait_for(lambda: reader.ended, "the stream's end")
        assert reader.done and reader.reason == "length" and reader.tokens == right
        server.assert_nothing_left()


def test_drain_seconds_bound_the_wait(long_model):
    with Server(long_model, "--drain-seconds", "0.5") as server:
        reader = start_stream(server, ENDLESS)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - begun >= 0.5
        wait_for(lambda: reader.ended, "the stream's end")
        assert not reader.done and reader.error["message"]
        server.assert_nothing_left()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(long_model, second):
    with Server(long_model, "--drain-seconds", "600") as server:
        reader = start_stream(server, ENDLESS)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/readyz").status == 503, "readiness is off")
        assert not reader.ended
        server.process.send_signal(second)
        assert server.wait() == 0
        server.assert_nothing_left()


def test_a_client_that_does_not_read_does_not_hold_it_up(long_model):
    with Server(long_model, "--drain-seconds", "600") as server:
        with server.stream([5, 6, 7], max_tokens=3000):
            server.process.send_signal(signal.SIGTERM)
            assert server.wait(READY_S) == 0
        server.assert_nothing_left()


def test_while_ranks_load(tmp_path):
    """As soon as each kind of process is there; mpirun is made to wait where that could be missed."""
    for role in ("agent", "mpirun", "rank"):
        with Skein("serve", TINY, "--port", 0, "--tensor-parallel-size", 2) as run:
            wait_for(lambda: run.processes(role), f"a process: {role}")
            run.process.send_signal(signal.SIGTERM)
            assert run.wait() == 0, run.err
            run.assert_nothing_left()


def test_while_mpirun_hangs(tmp_path):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\ntrap '' TERM\nsleep 1000 & wait; sleep 1000\n")
    mpirun.chmod(mpirun.stat().st_mode | stat.S_IXUSR)
    with Skein("serve", TINY, "--port", 0, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}) as run:
        wait_for(lambda: run.processes("sleep"), "mpirun, which sleeps")
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0, run.err
        run.assert_nothing_left()


def test_killed_while_ranks_load():
    for role in ("agent", "mpirun", "rank"):
        with Skein("serve", TINY, "--port", 0, "--tensor-parallel-size", 2) as run:
            wait_for(lambda: run.processes(role), f"a process: {role}")
            run.process.kill()
            run.assert_nothing_left(files=False)


def test_a_rank_killed_while_it_loads():
    with Skein("serve", TINY, "--port", 0, "--tensor-parallel-size", 2) as run:
        wait_for(lambda: run.processes("rank"), "a rank")[0].kill()
        assert run.wait() == 1
        assert len(run.messages()) == 1 and run.messages()[0].startswith("skein: ")
        run.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_chat_that_serves_its_own_model(number):
    with Skein("chat", TINY, stdin=subprocess.PIPE) as run:
        wait_for(lambda: run.processes("rank"), "a rank")
        run.process.send_signal(number)
        assert run.wait() != 0
        run.assert_nothing_left()


def test_bench_that_is_interrupted():
    with Skein("bench", "offline", TINY, "--rounds", 1000, "--output-len", 1000) as run:
        wait_for(lambda: run.processes("rank"), "a rank")
        run.process.send_signal(signal.SIGINT)
        assert run.wait(EXIT_S) != 0
        run.assert_nothing_left()
