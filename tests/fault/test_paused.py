"""A machine that is paused (suspended, or starved by others) and goes on: nobody is taken for dead."""

import signal
import time

import pytest

from skein_server import Reader, Server, wait_for

PAUSE_S = 5  # more than twice the lease


@pytest.mark.parametrize("first", ["coordinator", "agent", "rank"])
def test_everything_is_paused_and_goes_on(long_model, first):
    with Server(long_model, "--data-parallel-size", 2) as server:
        reader = Reader(server.stream([5], max_tokens=80_000))
        wait_for(lambda: reader.tokens, "the answer begins")
        processes = sorted(server.processes(), key=lambda process: process.role != first)
        for process in processes:
            process.kill(signal.SIGSTOP)
        until = time.monotonic() + PAUSE_S
        wait_for(lambda: time.monotonic() > until, "the pause", 2 * PAUSE_S)
        for process in processes:
            process.kill(signal.SIGCONT)
        before = len(reader.tokens)
        wait_for(lambda: len(reader.tokens) > before + 100, "the answer goes on")
        assert server.total("skein_replica_losses_total") == 0 and not server.logs("replica lost")
        assert {process.pid for process in server.processes()} == {process.pid for process in processes}
        reader.close()
        server.assert_idle()
        server.stop()
