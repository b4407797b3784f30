"""The coordinator alone stands still (SIGSTOP; a virtual machine that is paused) and goes on. Its peers, which may have
lost their connections meanwhile, are heard again, and nothing that runs is started again."""

import contextlib
import pathlib
import signal
import tempfile
import time

import pytest

import hosts
from skein_server import READY_S, Reader, make_long_model, wait_for

pytestmark = pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))

PROMPT = [7, 1, 8, 2, 8]
ENDLESS = 29_000  # tokens
LENGTH = 2000  # tokens that are compared
PAUSE_S = 5  # more than twice the lease
NODES = ("node-a", "node-b")
PEERS = 3  # two agents and a leader


@pytest.fixture(scope="module")
def cluster():
    # Hosts have a /tmp of their own.
    with tempfile.TemporaryDirectory(prefix="skein-long-", dir="/var/tmp") as folder, \
            hosts.Cluster(NODES, "  - {tensor_parallel_size: 2, places: [node-a:0, node-b:0]}",
                          model=make_long_model(pathlib.Path(folder) / "model"), extra="max_model_len: 30000\n",
                          kv_bytes=32_000_000) as made:
        made.start_agents()
        made.serve()
        made.wait_ready()
        yield made


@contextlib.contextmanager
def paused(cluster):
    cluster.processes("coordinator")[0].kill(signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.coordinator.send_signal(signal.SIGCONT)  # nsenter stops with it, and sends the signal on


def pids(cluster):
    return sorted(process.pid for role in ("agent", "mpirun", "orted", "rank") for process in cluster.processes(role))


def start_stream(cluster, seed=1):
    reader = Reader(cluster.server.stream([seed, *PROMPT], max_tokens=ENDLESS))
    wait_for(lambda: len(reader.tokens) > 10, "the stream's first tokens")
    return reader


def test_a_stream_goes_on_where_it_was(cluster):
    right = cluster.server.tokens([1, *PROMPT], max_tokens=LENGTH)
    before, said = pids(cluster), len(cluster.log)
    reader = start_stream(cluster)
    with paused(cluster):
        time.sleep(PAUSE_S)
    wait_for(lambda: len(reader.tokens) >= LENGTH, lambda: f"the stream goes on: {cluster.everything()}")
    assert not reader.ended and reader.tokens[:LENGTH] == right
    reader.close()
    cluster.server.assert_idle()
    assert pids(cluster) == before
    assert "replica lost" not in cluster.log[said:] and "came again" not in cluster.log[said:]


# The coordinator's kernel hears of it; or it does not, and the old connections look alive.
@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_peers_that_lost_their_connections_are_heard_again(cluster, told):
    answer = cluster.server.tokens(PROMPT)
    before = pids(cluster)
    for _ in range(3):
        said = len(cluster.log)
        readers = [start_stream(cluster, seed) for seed in range(3)]
        with paused(cluster):
            wait_for(lambda: all(unread(cluster, node) for node in NODES), "frames of each node that nobody has read")
            for node in NODES:
                lose_connections(cluster, node, told)
            wait_for(lambda: len(connections(cluster)) == PEERS, "the peers have new connections")
        for reader in readers:
            wait_for(lambda: reader.ended, lambda: f"the streams' end: {cluster.everything()}")
            assert "the connection to it broke" in reader.error["message"]
            reader.close()
        wait_for(lambda: cluster.log[said:].count("came again") == PEERS, cluster.everything)
        assert cluster.server.tokens(PROMPT) == answer
        cluster.server.assert_idle()
        assert pids(cluster) == before and "replica lost" not in cluster.log[said:]
    # Agents, too: a launch takes both.
    cluster.processes("rank")[-1].kill()
    wait_for(lambda: not set(before) & {process.pid for process in cluster.jobs()}, cluster.everything)
    wait_for(lambda: cluster.server.get("/readyz").status == 200, cluster.everything, READY_S)
    assert cluster.server.tokens(PROMPT) == answer and "the agent of" not in cluster.log


def lose_connections(cluster, node, told):
    """That node ends its connections to the coordinator."""
    if not told:
        cluster.network.cut_between(node, "head")
    cluster.network.hosts[node].run("ss", "--kill", "--tcp", "--numeric", f"dport = :{hosts.PORT}")
    if not told:
        cluster.network.heal_between(node, "head")


def connections(cluster):
    """Of the nodes to the coordinator's port, as the nodes see them."""
    return [line for node in NODES for line in _established(cluster, node, f"dport = :{hosts.PORT}")]


def unread(cluster, node):
    """Bytes of that node that wait at the coordinator's port."""
    there = _established(cluster, "head", f"sport = :{hosts.PORT} and dst {cluster.network.hosts[node].address}")
    return sum(int(line.split()[0]) for line in there)


def _established(cluster, host, which):
    return cluster.network.hosts[host].run("ss", "--tcp", "--numeric", "--no-header", "state", "established",
                                           which).splitlines()
