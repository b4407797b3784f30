"""`skein topology --measure` between nodes: probes that agents launch, and a plan with what they measured."""

import json
import re
import signal
import subprocess

import pytest

import hosts
from skein_server import BIN, EXIT_S, FIXTURES, MODEL, READY_S, wait_for

pytestmark = pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))

NODES = ("node-a", "node-b", "node-c")
LIMIT_MBIT = 200


@pytest.fixture(scope="module")
def cluster():
    """Two nodes in a rack, one in another."""
    with hosts.Cluster(NODES, planned=True, extra="pipeline_parallel_size: 2\n") as made:
        made.describe_nodes(NODES, racks={"node-c": "r1"})
        made.start_agents()
        yield made


def first_token_ms(cluster, nodes, *flags):
    plan = subprocess.run([BIN / "skein", "plan", FIXTURES / MODEL, "--dtype", "float32", "--cluster",
                           cluster.scratch / "cluster.yaml", "--nodes", nodes, "--pipeline-parallel-size", "2", "--format",
                           "json", *flags], capture_output=True, text=True, check=True)
    return json.loads(plan.stdout)["models"][0]["predicted"]["ttft_ms"]


@pytest.mark.skipif(hosts.why_not_limit() is not None, reason=str(hosts.why_not_limit()))
def test_each_kind_of_way_between_nodes_is_measured_once(cluster):
    cluster.network.limit("node-c", LIMIT_MBIT)
    out = cluster.measured(cluster.measure("limited"), "limited")
    assert re.findall(r"^measuring (.*)$", out, re.MULTILINE) == ["TCP between node-a:0 and node-b:0",
                                                                 "TCP between node-a:0 and node-c:0"]
    assert out.count("TCP over 10.77.0.0/24") >= 2, out
    assert re.search(r"^note: TCP between node-a:0 and node-c:0 \(TCP over \S+\) carries 0\.0\S* GB/s where 1\.25 GB/s are "
                     "described", out, re.MULTILINE), out
    file = cluster.scratch / "limited.yaml"
    (near_described, _, near), (far_described, sizes, far) = cluster.links("limited")
    assert near_described < far_described
    assert all(0 < time < 1e6 for time in near + far)
    carried = (sizes[-1] - sizes[-2]) / (far[-1] - far[-2]) * 1e6
    assert LIMIT_MBIT / 8 * 1e6 / 5 < carried < LIMIT_MBIT / 8 * 1e6 * 1.2, carried

    # A pipeline over the slow link is planned with it, one over the other with that.
    believed = first_token_ms(cluster, "node-a,node-c")
    assert first_token_ms(cluster, "node-a,node-c", "--calibration", file) > believed
    assert first_token_ms(cluster, "node-a,node-b", "--calibration", file) < first_token_ms(
        cluster, "node-a,node-c", "--calibration", file)


def test_without_a_cluster_file_the_agents_describe_the_nodes(cluster):
    process = cluster.measure("described", "--nodes", "node-a,node-b",
                              settings=lambda text: re.sub(r"^cluster: .*\n", "", text, flags=re.MULTILINE))
    out = cluster.measured(process, "described")
    assert len(re.findall(r"^measuring TCP between node-a:0 and node-b:0$", out, re.MULTILINE)) == 1
    assert len(cluster.links("described")) == 1


def probe_of(cluster, name, **how):
    """A measurement, and a rank of it that has just started."""
    process = cluster.measure(name, **how)
    return process, wait_for(lambda: cluster.processes("rank", "node-b"), cluster.everything, READY_S)[0]


def test_it_can_be_interrupted(cluster):
    process, _ = probe_of(cluster, "interrupted")
    for coordinator in cluster.processes("coordinator"):
        coordinator.kill(signal.SIGINT)
    out = cluster.measured(process, "interrupted", 1)
    assert "the probe of TCP between node-a:0 and node-b:0: asked to end while measuring\n" in out
    assert not (cluster.scratch / "interrupted.yaml").exists()


def test_a_rank_that_stands_still_ends_at_the_deadline(cluster):
    process, rank = probe_of(cluster, "late", settings=lambda text: text + "startup_timeout: 4\n")
    rank.kill(signal.SIGSTOP)
    out = cluster.measured(process, "late", 1)
    assert "the probe of TCP between node-a:0 and node-b:0: it was not ready within 4 s\n" in out


def test_an_agent_that_is_lost_is_named(cluster):
    process, _ = probe_of(cluster, "lost")
    for agent in cluster.processes("agent", "node-b"):
        agent.kill()
    out = cluster.measured(process, "lost", 1)
    assert re.search(r"^skein: the probe of TCP between node-a:0 and node-b:0: .*node", out, re.MULTILINE), out
    cluster.start_agent("node-b")


def test_what_waits_for_its_coordinator_is_not_ended(cluster):
    cluster.serve("--nodes", "node-a,node-b")
    cluster.wait_ready()
    ranks = sorted(process.pid for process in cluster.processes("rank"))
    cluster.processes("coordinator")[0].kill()
    cluster.coordinator.wait()
    process = cluster.measure("busy")
    wait_for(lambda: process.poll() is not None, cluster.everything, READY_S)
    assert process.returncode == 1
    assert "the agent of node-a runs ranks that wait for their coordinator" in cluster.output("busy")
    assert sorted(process.pid for process in cluster.processes("rank")) == ranks
    cluster.serve("--nodes", "node-a,node-b")
    cluster.wait_ready()
    cluster.stop_coordinator()
    cluster.assert_no_jobs(EXIT_S)
