"""Replicas whose GPUs are on different nodes: NCCL over TCP, between namespaces as hosts that have one GPU each.

Needs a build with CUDA (SKEIN_BIN), two GPUs of compute capability 9.0, and root.
"""

import contextlib
import json
import pathlib
import re
import tempfile
import time

import pytest

import hosts
from gpus import SMALL, agree_with_transformers, two_gpus
from skein_server import BIN, FIXTURES, Reader, make_long_model, wait_for

pytestmark = [two_gpus, pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))]

NODES = ("node-a", "node-b")  # the first has rank 0, the leader, and mpirun
DEGREES = ("pipeline_parallel_size", "tensor_parallel_size")
PROMPT = [5, 6, 7]
ENDLESS = 90_000
ENDED_S = 10  # ranks miss each other after 5 s, and the coordinator their leader 2 s later


def give_gpu(host, number):
    """Programs there find that one of this machine's GPUs alone: /dev has no file of the others, as in a container."""
    files = sorted(pathlib.Path("/dev").glob("nvidia[0-9]*"), key=lambda file: int(file.name.removeprefix("nvidia")))
    lines = ["mkdir /tmp/dev", "mount -t tmpfs tmpfs /tmp/dev"]
    for path in set(pathlib.Path("/dev").iterdir()) - set(files[:number] + files[number + 1:]):
        if path.is_symlink():
            lines.append(f"cp -P {path} /tmp{path}")
        else:
            lines += [f"{'mkdir' if path.is_dir() else 'touch'} /tmp{path}", f"mount --rbind {path} /tmp{path}"]
    # The driver's libraries would make the files again.
    host.run("sh", "-e", "-c", "\n".join([*lines, "mount -o remount,ro /tmp/dev", "mount --move /tmp/dev /dev"]))
    [node] = json.loads(host.run(BIN / "skein", "topology", "--format", "json"))["cluster"]["nodes"]
    assert len(node["devices"]) == 1, node


@contextlib.contextmanager
def nodes_with_a_gpu(degree, model):
    """Two of them, whose agents run, for a replica with a rank on each. What NCCL says is in the file nccl.NODE.PID."""
    with hosts.Cluster(NODES, f"  - {{{degree}: 2, places: [node-a:0, node-b:0]}}", model=model) as cluster:
        for number, node in enumerate(NODES):
            give_gpu(cluster.network.hosts[node], number)
            # NCCL would rather take this one, and nothing that is sent there arrives.
            cluster.network.hosts[node].batch("link add ib0 type veth peer name ib1", "link set ib1 up",
                                              f"address add 10.78.0.{number + 1}/24 dev ib0", "link set ib0 up")
        cluster.start_agents(env={
            "NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(cluster.scratch / "nccl.%h.%p"),
            "NCCL_IB_DISABLE": "1"})  # ports that this machine may have are in no network namespace
        yield cluster


def start(cluster):
    cluster.serve(*SMALL, "--dtype", "auto")
    cluster.wait_ready()


def ways_of_nccl(cluster):
    """What it took between each two GPUs: NET/Socket/0, P2P/CUMEM, SHM/direct and the like."""
    files = list(cluster.scratch.glob("nccl.*"))
    assert {file.name.split(".")[1] for file in files} == set(NODES), files
    return {way for file in files for way in re.findall(r"Channel .* via (\S+)", file.read_text())}


@pytest.mark.parametrize("name", ["llama3_rope", "mistral_window"])
@pytest.mark.parametrize("degree", DEGREES)
def test_values(degree, name):
    with nodes_with_a_gpu(degree, FIXTURES / name) as cluster:
        start(cluster)
        agree_with_transformers(cluster.server, name)
        assert [len(cluster.processes("rank", node)) for node in NODES] == [1, 1]
        assert '"transport":"NCCL over TCP"' in cluster.log
        ways = ways_of_nccl(cluster)
        assert ways and all(way.startswith("NET/Socket") for way in ways), ways
        cluster.server.assert_idle()
        cluster.stop_coordinator()
        cluster.assert_no_jobs()


def test_the_network_is_measured():
    with nodes_with_a_gpu(DEGREES[0], FIXTURES / "llama3_rope") as cluster:
        out = cluster.measured(cluster.measure("links"), "links")
        assert re.findall(r"^measuring (.*)$", out, re.MULTILINE) == ["TCP between node-a:0 and node-b:0"]
        assert "NCCL over TCP" in out
        [(_, sizes, times)] = cluster.links("links")
        assert len(sizes) == len(times) > 4 and all(0 < time < 1e6 for time in times), times


@pytest.fixture(scope="module", params=DEGREES)
def serving(request):
    """A replica whose answers can be as long as a test needs."""
    # Hosts have a /tmp of their own.
    with tempfile.TemporaryDirectory(prefix="skein-long-", dir="/var/tmp") as folder, \
            nodes_with_a_gpu(request.param, make_long_model(pathlib.Path(folder) / "model")) as cluster:
        start(cluster)
        yield cluster
        cluster.stop_coordinator()
        cluster.assert_no_jobs()


def kill_rank(node):
    return lambda cluster: cluster.processes("rank", node)[0].kill(), lambda cluster: None


# What happens, and what makes it good again.
FAULTS = {
    "its leader is killed": kill_rank("node-a"),
    "its other rank is killed": kill_rank("node-b"),
    "a node is cut off": (lambda cluster: cluster.network.cut("node-b"), lambda cluster: cluster.network.heal("node-b")),
    "the link between its nodes is cut": (lambda cluster: cluster.network.cut_between(*NODES),
                                          lambda cluster: cluster.network.heal_between(*NODES)),
}


@pytest.mark.parametrize("strike, mend", FAULTS.values(), ids=FAULTS.keys())
def test_requests_end_soon_when(serving, strike, mend):
    before = {process.pid for process in serving.jobs()}
    reader = Reader(serving.server.stream(PROMPT, max_tokens=ENDLESS))
    wait_for(lambda: len(reader.tokens) > 10, "the stream's first tokens")
    since = time.monotonic()
    strike(serving)
    try:
        wait_for(lambda: reader.ended, lambda: f"the end of the stream: {serving.everything()}")
        assert time.monotonic() - since < ENDED_S
        assert "was lost" in reader.error["message"] and not reader.done
        # Also those that nobody can tell.
        wait_for(lambda: not before & {process.pid for process in serving.jobs()},
                 lambda: f"the launch's end: {serving.jobs()} {serving.everything()}")
    finally:
        reader.close()
        mend(serving)
    wait_for(lambda: serving.server.get("/readyz").status == 200, serving.everything, 60)
    assert len(serving.server.tokens(PROMPT)) == 16
