"""Replicas over several nodes: real agents, real mpirun, real sockets, on namespaces as hosts."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

import hosts
from skein_server import BIN, FIXTURES, MODEL, REFUSED_S, Server, wait_for

pytestmark = pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))

PROMPT = [7, 1, 8, 2, 8]
FIELDS = {"max_tokens": 40, "logprobs": 3}


@pytest.fixture(scope="module")
def running():
    """Four nodes with a rank each."""
    with hosts.Cluster() as cluster:
        cluster.start_agents()
        cluster.serve()
        cluster.wait_ready()
        yield cluster
        cluster.stop_coordinator()
        cluster.assert_no_jobs()


@pytest.fixture(scope="module")
def one_machine():
    """The same shape through shared memory: tokens and log-probabilities."""
    with Server(FIXTURES / MODEL, "--dtype", "float32", "--tensor-parallel-size", "2", "--pipeline-parallel-size",
                "2") as server:
        return server.complete(PROMPT, **FIELDS)["choices"][0]


def ended_with(cluster, process, name, seconds=REFUSED_S):
    """The sentence that a program ended with."""
    wait_for(lambda: process.poll() is not None, cluster.everything, seconds)
    status = process.returncode
    assert status in (1, 2), cluster.output(name)
    return cluster.output(name).rstrip().rpartition("\n")[2]


def test_nothing_passes_between_hosts_but_packets(running):
    a, b = running.network.hosts["node-a"], running.network.hosts["node-b"]
    for folder in ("/tmp", "/dev/shm"):
        a.run("touch", f"{folder}/of-a")
        assert not b.run("find", folder, "-name", "of-a")
        assert not os.path.exists(f"{folder}/of-a")
    assert a.run("hostname") == "node-a\n" and b.run("hostname") == "node-b\n"
    a.run("ipcmk", "--semaphore", "1")
    assert "0x" in a.run("ipcs", "--semaphores") and "0x" not in b.run("ipcs", "--semaphores")
    assert "skein-worker" in a.run("ps", "-e") and len(b.run("pgrep", "-x", "skein-worker").split()) == 1
    spaces = {tuple(os.readlink(f"/proc/{host.init}/ns/{kind}") for kind in ("net", "uts", "ipc", "mnt", "pid"))
              for host in running.network.hosts.values()}
    assert all(len(set(kind)) == len(running.network.hosts) for kind in zip(*spaces))


def test_tokens_are_bitwise_those_of_shared_memory(running, one_machine):
    choice = running.server.complete(PROMPT, **FIELDS)["choices"][0]
    assert choice["token_ids"] == one_machine["token_ids"]
    assert choice["logprobs"] == one_machine["logprobs"]


def test_each_node_runs_its_rank_and_the_ranks_talk_tcp(running):
    running.server.tokens(PROMPT)
    for node in running.nodes:
        assert len(running.processes("rank", node)) == 1
        assert not any(process.mapped_shared_memory() for process in running.processes("rank", node))
        assert "skein-worker" in running.network.hosts[node].run("ss", "--tcp", "--no-header", "--processes", "dst",
                                                                  f"{hosts.SUBNET}.0/24")
    assert '"transport":"TCP over 10.77.0.0/24"' in running.log
    assert not any(running.network.hosts["head"].holds(process) for process in running.jobs())


def test_an_operator_sees_what_agents_report(running):
    url = f"http://127.0.0.1:{running.server.port}"
    head = running.network.hosts["head"]
    shown = json.loads(head.run(BIN / "skein", "topology", "--url", url, "--format", "json"))
    assert [node["name"] for node in shown["cluster"]["nodes"]] == list(running.nodes)
    assert len({launch for node in shown["nodes"] for launch in node["launches"]}) == 1
    values = running.server.metrics()
    for node in shown["nodes"]:
        name = node["name"]
        assert node["address"] == running.network.hosts[name].address and node["network"] == "10.77.0.0/24"
        assert node["devices_held"] == [0] and node["devices"] >= 1
        assert 0 < node["memory_free_bytes"] <= node["memory_bytes"]
        assert values["skein_node_up", name] == 1 and values["skein_node_devices_held", name] == 1
        assert values["skein_node_memory_bytes", name] == node["memory_bytes"]
        assert 0 < values["skein_node_memory_free_bytes", name] <= node["memory_bytes"]
    text = head.run(BIN / "skein", "topology", "--url", url)
    line = r"^node-b at 10\.77\.0\.3: \S+ \S+ of \S+ \S+ free, ranks on 1 of \d+ devices$"
    assert re.search(line, text, re.MULTILINE), text
    file = running.scratch / "reported.yaml"
    file.write_text(head.run(BIN / "skein", "topology", "--url", url, "--format", "yaml"))
    described = json.loads(head.run(BIN / "skein", "topology", "--config", file, "--format", "json"))
    assert described["cluster"]["nodes"][3]["name"] == "node-d"


def test_ranks_say_what_they_hold(running):
    values = running.server.metrics()
    taken, planned = ([values["skein_rank_memory_bytes", f"0{kind}{rank}"] for rank in range(4)]
                      for kind in ("taken", "planned"))
    assert all(0 < plan <= rank < 4 << 30 for plan, rank in zip(planned, taken)), (planned, taken)
    misses = [abs(rank - plan) for plan, rank in zip(planned, taken)]
    assert ("memory differs from the plan" in running.log) == any(miss > 256 << 20 for miss in misses), misses


def test_idle_ranks_sleep(running):
    running.server.tokens(PROMPT)
    ranks = running.processes("rank")
    before = sum(process.cpu_ticks() for process in ranks)
    subprocess.run(["sleep", "2"], check=True)  # the span over which processor time is counted
    ticks = sum(process.cpu_ticks() for process in ranks) - before
    assert ticks < 40, f"four idle ranks took {ticks} ticks in 2 s"


def test_many_requests_at_once(running):
    streams = [running.server.stream([seed, 3, 5], max_tokens=30) for seed in range(8)]
    answers = [[token for event in stream for choice in event["choices"] for token in choice["token_ids"]]
               for stream in streams]
    assert all(len(answer) == 30 for answer in answers)
    assert answers[3] == running.server.tokens([3, 3, 5], max_tokens=30)


def test_what_cannot_register_is_told_why(running):
    """Another agent of a node's name, one on a host that has one, and one whose key nobody knows."""
    endpoint = f"tcp://{running.network.hosts['head'].address}:{hosts.PORT}"
    keys = running.scratch / "keys"
    again = running.start("head", "agent", "--coordinator", endpoint, "--name", "node-a", "--key-file", keys / "node-a.key",
                          name="again")
    assert "another agent is here as node-a" in ended_with(running, again, "again")
    second = running.start("node-a", "agent", "--coordinator", endpoint, "--name", "node-a", "--key-file",
                           keys / "node-a.key", name="second")
    assert "another `skein agent` of this coordinator runs on this host" in ended_with(running, second, "second")
    posing = running.start("head", "agent", "--coordinator", endpoint, "--name", "node-b", "--key-file",
                           keys / "node-a.key", name="posing")
    assert "the key of node-a cannot register node-b" in ended_with(running, posing, "posing")
    subprocess.run([BIN / "skein", "keys", "--out", running.scratch / "others", "node-a"], check=True, capture_output=True)
    unknown = running.start("head", "agent", "--coordinator", endpoint, "--name", "node-a", "--key-file",
                            running.scratch / "others/node-a.key", "--coordinator-key", keys / "coordinator.pub",
                            name="unknown")
    assert "refused the key of node-a: add \"node-a " in ended_with(running, unknown, "unknown")
    assert "its key is not in the allow-list" in running.log
    nowhere = running.start("head", "agent", "--coordinator", "tcp://no-such-host.invalid:7300", "--key-file",
                            keys / "node-a.key", name="nowhere")
    assert "the host name \"no-such-host.invalid\" does not resolve" in ended_with(running, nowhere, "nowhere", 60)
    assert running.server.tokens(PROMPT)  # none of which disturbed anybody


def test_two_ranks_on_a_node_share_its_memory(one_machine):
    replicas = "  - {tensor_parallel_size: 2, pipeline_parallel_size: 2, places: [node-a:0, node-a:1, node-b:0, node-b:1]}"
    with hosts.Cluster(("node-a", "node-b"), replicas) as cluster:
        cluster.serve()
        cluster.start_agent("node-a")
        # A node that joins late is waited for.
        wait_for(lambda: cluster.processes("agent"), "an agent")
        cluster.start_agent("node-b")
        cluster.wait_ready()
        choice = cluster.server.complete(PROMPT, **FIELDS)["choices"][0]
        assert choice["token_ids"] == one_machine["token_ids"]
        assert choice["logprobs"] == one_machine["logprobs"]
        assert len(cluster.processes("rank", "node-b")) == 2
        assert all(process.mapped_shared_memory() for process in cluster.processes("rank"))
        cluster.stop_coordinator()
        cluster.assert_no_jobs()
        for host in cluster.network.hosts.values():
            assert not host.run("find", "/tmp", "/dev/shm", "-xdev", "-xdev", "-name", "spec.json", "-o", "-name", "skein-*", "-type", "f")


def launch_fails(cluster, seconds=60):
    cluster.start_agents()
    coordinator = cluster.serve("--startup-timeout", "30")
    sentence = ended_with(cluster, coordinator, cluster.log_name, seconds)
    cluster.assert_no_jobs()
    return sentence


@pytest.fixture
def own_model():
    """A copy of the model that a host may see another version of."""
    with hosts.Cluster(model="/var/tmp/skein-model") as cluster:
        folder = cluster.scratch / "model"
        shutil.copytree(FIXTURES / MODEL, folder)
        config = cluster.scratch / "serve.yaml"
        config.write_text(config.read_text().replace("/var/tmp/skein-model", str(folder)))
        yield cluster, folder


def test_model_files_that_differ_are_found_before_loading(own_model):
    cluster, folder = own_model
    other = cluster.scratch / "other"
    shutil.copytree(folder, other)
    shard = next(other.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2:] = bytes(len(data) - len(data) // 2)
    shard.write_bytes(data)
    cluster.network.hosts["node-c"].run("mount", "--bind", other, folder)
    assert "the model's files of rank 2 on node-c differ from those of rank 0 on node-a" in launch_fails(cluster)


def test_a_missing_model_names_its_node(own_model):
    cluster, folder = own_model
    (cluster.scratch / "empty").mkdir()
    cluster.network.hosts["node-b"].run("mount", "--bind", cluster.scratch / "empty", folder)
    assert re.search(r"rank 1 on node-b: .*model", launch_fails(cluster))


def test_a_node_without_a_key_is_refused_at_start():
    replicas = "  - {tensor_parallel_size: 2, places: [node-a:0, node-x:0]}"
    with hosts.Cluster(("node-a",), replicas) as cluster:
        coordinator = cluster.serve()
        assert "the node node-x has a rank, but no key" in ended_with(cluster, coordinator, cluster.log_name)


def test_agents_that_do_not_come_are_named():
    replicas = "  - {tensor_parallel_size: 2, places: [node-a:0, node-b:0]}"
    with hosts.Cluster(("node-a", "node-b"), replicas) as cluster:
        cluster.start_agent("node-a")
        coordinator = cluster.serve("--startup-timeout", "2")
        assert "waited 2 s for the agents of node-b" in ended_with(cluster, coordinator, cluster.log_name, 30)


def test_an_agent_ends_cleanly(running):
    """Last of this module: it takes a node away."""
    assert running.server.metrics()["skein_node_up", "node-d"] == 1
    agent = running.processes("agent", "node-d")[0]
    agent.kill(signal.SIGTERM)
    wait_for(lambda: not agent.alive and not running.processes("rank", "node-d"), "the agent's end")
    wait_for(lambda: not running.jobs(), lambda: f"the replica's end: {running.jobs()}")
    assert running.server.get("/readyz").status == 503
    wait_for(lambda: running.server.metrics()["skein_node_up", "node-d"] == 0, "the node's absence")
    assert ("skein_node_devices", "node-d") not in running.server.metrics()
    running.start_agent("node-d")
    wait_for(lambda: running.server.get("/readyz").status == 200, running.everything, 60)
    assert running.server.tokens(PROMPT)
