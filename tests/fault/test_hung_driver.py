"""A GPU driver that does not answer: the node's agent says so, and what needs no driver goes on."""

import json

import pytest

import hosts
from gpus import with_driver
from skein_server import SLOWER, wait_for

pytestmark = pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))

PROMPT = [7, 1, 8, 2, 8]
PATIENCE_S = 1 * SLOWER  # --driver-timeout
SILENT = "its GPU driver has not answered for "


@pytest.fixture
def cluster():
    """A replica on the cores of a node that has a GPU, too. Its driver hangs while hangs(True)."""
    with hosts.Cluster(("node-a",), "  - {places: [node-a:0]}") as made:
        yield made


def start_agent(cluster):
    """The environment in which it is."""
    env = with_driver(cluster.scratch, 9, name="NVIDIA H200")
    cluster.start_agent("node-a", "--driver-timeout", str(PATIENCE_S), env=env)
    return env


def told(cluster):
    """What GET /v1/skein/nodes has of the node, and the findings."""
    answer = cluster.server.get("/v1/skein/nodes").json
    return answer["nodes"][0], answer["findings"]


def await_another(cluster, looks):
    before = {look.pid for look in looks}
    wait_for(lambda: {look.pid for look in cluster.processes("look")} - before, "another process that asks the driver")


def test_a_driver_that_stops_answering_stops_nothing_else(cluster):
    hangs = cluster.scratch / "hangs"
    start_agent(cluster)
    cluster.serve()
    cluster.wait_ready()
    wait_for(lambda: "gpu_memory_free_bytes" in told(cluster)[0], lambda: f"a look: {told(cluster)}")
    looks = cluster.processes("look")
    hangs.touch()
    wait_for(lambda: "driver_silent_seconds" in told(cluster)[0], lambda: f"the driver's silence: {told(cluster)}")
    node, findings = told(cluster)
    assert "gpu_memory_free_bytes" not in node and node["memory_free_bytes"] > 0
    assert any(finding.startswith(f"node-a: {SILENT}") for finding in findings), findings
    assert cluster.server.metrics()["skein_node_driver_silent_seconds", "node-a"] >= PATIENCE_S
    # Neither the lease of what runs ends, nor is a launch on cores held up.
    await_another(cluster, looks)
    assert cluster.server.tokens(PROMPT) and "replica lost" not in cluster.log
    cluster.processes("rank")[0].kill()
    wait_for(lambda: "replica lost" in cluster.log, "the loss")
    wait_for(lambda: cluster.server.get("/readyz").status == 200, cluster.everything)
    assert cluster.server.tokens(PROMPT)
    hangs.unlink()
    wait_for(lambda: "gpu_memory_free_bytes" in told(cluster)[0], lambda: f"an answer: {told(cluster)}")
    assert "driver_silent_seconds" not in told(cluster)[0] and not any(SILENT in finding for finding in told(cluster)[1])
    events = [json.loads(line)["event"] for line in cluster.output("node-a").splitlines() if line.startswith("{")]
    assert sum(SILENT in event for event in events) == 1 and "agent: the GPU driver answers again" in events
    cluster.stop_coordinator()
    cluster.assert_no_jobs()


def test_a_node_whose_driver_hangs_from_the_start_is_described_later(cluster):
    hangs = cluster.scratch / "hangs"
    hangs.touch()
    cluster.serve(env=start_agent(cluster))  # whose own driver it does not ask
    cluster.wait_ready()
    node, findings = told(cluster)
    assert "devices" not in node and any("node-a: its hardware cannot be described: " + SILENT in finding
                                         for finding in findings), (node, findings)
    hangs.unlink()
    wait_for(lambda: told(cluster)[0].get("devices") == 1, lambda: f"a description: {told(cluster)}")
    wait_for(lambda: told(cluster)[1] == [], lambda: f"no findings: {told(cluster)}")  # with the next sign of life
    assert cluster.server.tokens(PROMPT)
    # It may be killed at any time.
    looks = cluster.processes("look")
    looks[0].kill()
    await_another(cluster, looks)
    agent = cluster.processes("agent")[0]
    agent.kill()
    wait_for(lambda: not cluster.processes("look") and not cluster.processes("rank"), cluster.everything)
