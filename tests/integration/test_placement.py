"""Replicas where the planner puts them, and stages of uneven depth."""

import json
import re
import signal
import subprocess
import time

import pytest

import hosts
from skein_server import BIN, FIXTURES, MODEL, Server, expected, wait_for

NODES = ("node-a", "node-b", "node-c", "node-d")


def skein(*arguments):
    return subprocess.run([BIN / "skein", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def assert_greedy_tokens(server, model=MODEL):
    for record in expected(model)["prompts"]:
        assert server.tokens(record["tokens"]) == record["greedy"]["tokens"]


@pytest.mark.parametrize("tensor", [1, 2])
def test_stages_of_uneven_depth(tmp_path, tensor):
    config = tmp_path / "serve.yaml"
    config.write_text(f"replicas:\n  - {{tensor_parallel_size: {tensor}, pipeline_parallel_size: 2, stage_layers: [1, 3]}}\n")
    with Server(FIXTURES / MODEL, "--dtype", "float32", "--config", config) as server:
        layers = re.findall(r"^  rank \d+  layers (\d+-\d+)", server.out, re.MULTILINE)
        assert layers == ["0-0"] * tensor + ["1-3"] * tensor
        assert_greedy_tokens(server)
        server.stop()


def test_a_plan_for_this_machine(tmp_path):
    """One node, no agents: its cores are one rank's."""
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("cluster: here\nkinds:\n  - {name: a core, type: cpu, read_gb_per_s: 10, tflops: 0.05}\nnodes:\n"
                       "  - {name: here, cores: 2, memory_gib: 2, devices: [{kind: a core, count: 2}]}\n")
    with Server(FIXTURES / MODEL, "--dtype", "float32", "--cluster", cluster) as server:
        assert len(server.processes("rank")) == 1
        assert_greedy_tokens(server)
        server.stop()


def test_this_machine_as_it_is_found(tmp_path):
    found = json.loads(skein("topology", "--format", "json").stdout)["cluster"]
    plan = json.loads(skein("plan", FIXTURES / MODEL, "--cluster", "here", "--format", "json").stdout)
    assert [node["name"] for node in plan["cluster"]["nodes"]] == [node["name"] for node in found["nodes"]]
    assert plan["replicas"]
    with Server(FIXTURES / MODEL, "--dtype", "float32", "--cluster", "here") as server:
        assert_greedy_tokens(server)
        server.stop()


@pytest.fixture(scope="module")
def planned():
    """Four nodes for replicas of two stages."""
    if hosts.why_not() is not None:
        pytest.skip(str(hosts.why_not()))
    with hosts.Cluster(NODES, extra="pipeline_parallel_size: 2\n", planned=True) as cluster:
        cluster.start_agents()
        yield cluster


def places_of(log):
    return [places.split() for places in re.findall(r"^  rank \d+ on (\S+)  layers", log, re.MULTILINE)]


def wait_for_all(cluster, replicas=2):
    cluster.wait_ready()
    wait_for(lambda: cluster.log.count('"replica ready"') == replicas, cluster.everything, 60)


def ratios(cluster, steps):
    """Of each replica that has one."""
    metrics = cluster.server.metrics()
    names = [("skein_plan_predicted_over_measured", f"{replica}{steps}") for replica in range(2)]
    return [metrics[name] for name in names if name in metrics]


def test_replicas_go_where_the_planner_puts_them(planned):
    planned.serve()
    wait_for_all(planned)
    places = [place for [place] in places_of(planned.log)]
    assert sorted(places) == [f"{node}:0" for node in NODES]
    for node in NODES:
        assert len(planned.processes("rank", node)) == 1
    assert_greedy_tokens(planned.server)
    # A core with 2 GiB was described.
    for node in NODES:
        assert f'"event":"node is not as described","node":"{node}"' in planned.log
    # Replicas take turns. What a step takes is held against the plan.
    assert not ratios(planned, "decode")
    for _ in range(4):
        planned.server.tokens([7, 1, 8, 2, 8], max_tokens=40)
    wait_for(lambda: len(ratios(planned, "decode")) == 2, lambda: f"two ratios: {planned.server.metrics()}")
    assert min(ratios(planned, "decode")) > 0
    planned.stop_coordinator()


def test_a_plan_file_is_started_as_it_is_or_refused(planned):
    serve = planned.scratch / "serve.yaml"
    made = skein("plan", "--config", serve, "--format", "json")
    assert made.returncode == 0, made.stderr
    plan = json.loads(made.stdout)
    # As an operator might: the other way round, and another split of the layers.
    for replica in plan["replicas"]:
        replica["ranks"].reverse()
        for stage, layers in zip(replica["stages"], (3, 1)):
            stage["layers"] = layers
    path = planned.scratch / "plan.json"
    path.write_text(json.dumps(plan))
    planned.serve("--plan", str(path))
    wait_for_all(planned)
    wanted = [f"{rank['node']}:{rank['device']}" for replica in plan["replicas"] for rank in replica["ranks"]]
    assert [place for [place] in places_of(planned.log)] == wanted
    assert re.findall(r"layers (\d-\d),", planned.log) == ["0-2", "3-3"] * 2
    assert_greedy_tokens(planned.server)
    planned.stop_coordinator()

    def refused(*flags):
        done = skein("serve", "--config", serve, *flags)
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "config.json" in refused("--plan", FIXTURES / MODEL / "config.json")
    other = planned.scratch / "other.json"
    other.write_text(json.dumps(plan | {"models": [plan["models"][0] | {"name": "another"}]}))
    assert "places another, but no replica of" in refused("--plan", other)
    assert "the planner chooses the number of replicas" in refused("--data-parallel-size", "2")
    assert f"--pipeline-parallel-size is 1, and the plan in {path} has 2: leave the flag out" in \
        refused("--plan", path, "--pipeline-parallel-size", "1")
    cluster = planned.scratch / "cluster.yaml"
    whole = cluster.read_text()
    cluster.write_text("".join(line for line in whole.splitlines(True) if "node-d" not in line))
    message = refused("--plan", path)
    cluster.write_text(whole)
    assert 'with a node "node-d", which is not there now; plan again' in message


def test_without_a_description_the_agents_say_what_there_is(planned):
    serve = planned.scratch / "serve.yaml"
    described = serve.read_text()
    serve.write_text("".join(line for line in described.splitlines(True) if not line.startswith("cluster:")))
    try:
        planned.serve()
        wait_for_all(planned)
        places = places_of(planned.log)
        assert sorted(place for [place] in places) == [f"{node}:0" for node in NODES]
        assert_greedy_tokens(planned.server)
        # Another coordinator asks the same agents, comes to the same plan, and finds it running.
        before = sorted(process.pid for process in planned.jobs())
        planned.processes("coordinator")[0].kill()
        planned.coordinator.wait()
        planned.serve()
        wait_for_all(planned)
        assert sorted(process.pid for process in planned.jobs()) == before
        assert places_of(planned.log) == places
        planned.stop_coordinator()

        planned.processes("agent", "node-d")[0].kill()
        wait_for(lambda: not planned.processes("agent", "node-d"), "the agent's end")
        planned.serve("--nodes-timeout", "3")
        wait_for_all(planned, 1)
        assert "waiting   for the agents of node-d\n" in planned.log
        assert "note      no agent came from node-d: nothing is placed there\n" in planned.log
        assert len(places_of(planned.log)) == 2
        assert_greedy_tokens(planned.server)
        planned.stop_coordinator()

        # Those that are named and come; an agent may be started again meanwhile.
        planned.serve("--nodes", "node-a,node-d", "--nodes-timeout", "8")
        wait_for(lambda: "waiting   for the agents of node-d\n" in planned.log, planned.everything)
        planned.processes("agent", "node-a")[0].kill()
        time.sleep(3)  # the one before is here until it has been silent for 2 s
        planned.start_agent("node-a")
        wait_for_all(planned, 1)
        assert places_of(planned.log) == [["node-a:0"], ["node-a:1"]]
        assert_greedy_tokens(planned.server)
        planned.stop_coordinator()
        misspelt = skein("serve", "--config", serve, "--nodes", "node-a,nobody")
        assert misspelt.returncode == 2 and 'has no key of the node "nobody"' in misspelt.stderr
    finally:
        serve.write_text(described)
        if not planned.processes("agent", "node-d"):
            planned.start_agent("node-d")


def test_what_can_stay_is_adopted_when_a_node_has_gone_for_good(planned):
    serve = planned.scratch / "serve.yaml"
    described = serve.read_text()
    serve.write_text("".join(line for line in described.splitlines(True) if not line.startswith("cluster:")))
    plan = planned.scratch / "kept.json"
    flags = ("--plan", str(plan), "--replan", "--nodes-timeout", "3")

    def ranks():
        """Process ids by node."""
        return {node: [process.pid for process in planned.processes("rank", node)] for node in NODES}

    def placed():
        return [[rank["node"] for rank in replica["ranks"]] for replica in json.loads(plan.read_text())["replicas"]]

    try:
        planned.serve(*flags)
        wait_for_all(planned)
        before, nodes = ranks(), placed()
        assert sorted(nodes[0] + nodes[1]) == list(NODES)
        # The first replica's last node goes: the second one is the first in the next plan.
        gone = nodes[0][1]
        planned.processes("coordinator")[0].kill()
        planned.processes("agent", gone)[0].kill()
        planned.coordinator.wait()
        planned.serve(*flags)
        wait_for_all(planned, 1)
        assert placed() == [nodes[1]]
        kept = ranks()
        assert all(kept[node] == before[node] for node in nodes[1])
        wait_for(lambda: not ranks()[nodes[0][0]], "the end of the replica that lost a node")
        assert_greedy_tokens(planned.server)
        # It comes back: what runs stays again.
        planned.start_agent(gone)
        planned.processes("coordinator")[0].kill()
        planned.coordinator.wait()
        planned.serve(*flags)
        wait_for_all(planned)
        assert all(ranks()[node] == before[node] for node in nodes[1])
        assert sorted(sum(placed(), [])) == list(NODES)
        assert_greedy_tokens(planned.server)
        planned.stop_coordinator()
    finally:
        serve.write_text(described)


def test_two_models_share_their_nodes():
    """Each with its coordinator, its plan, and an agent of its own on either node."""
    if hosts.why_not() is not None:
        pytest.skip(str(hosts.why_not()))
    other, nodes = "qwen3_qknorm", ("node-a", "node-b")
    with hosts.Cluster(nodes, extra="pipeline_parallel_size: 2\n", planned=True) as cluster:
        configs = [cluster.scratch / "serve.yaml", cluster.scratch / "second.yaml"]
        keys = cluster.scratch / "second-keys"
        assert skein("keys", "--out", keys, *nodes).returncode == 0
        text = configs[0].read_text()
        for mine, theirs in ((f"/{MODEL}\n", f"/{other}\n"), (f":{hosts.PORT}\n", ":7301\n"), ("port: 8000", "port: 8001"),
                             (f"{cluster.scratch}/keys", str(keys)), ("1000000", "4000000")):
            assert mine in text
            text = text.replace(mine, theirs)
        configs[1].write_text(text + "ports: 7810-8309\n")
        plans = [config.with_suffix(".json") for config in configs]
        for config, plan in zip(configs, plans):
            made = skein("plan", "--config", config, "--format", "json", "--input-len", 20, "--output-len", 20)
            assert made.returncode == 0, made.stderr
            plan.write_text(made.stdout)
        cluster.serve("--plan", plans[0])
        cluster.start_agents()
        cluster.start("head", "serve", "--config", configs[1], "--plan", plans[1], name="second")
        for node in nodes:
            cluster.start(node, "agent", "--coordinator", f"tcp://{cluster.network.hosts['head'].address}:7301", "--name", node,
                          "--key-file", keys / f"{node}.key", name=f"second-{node}")
        cluster.wait_ready()
        wait_for(lambda: "skein: ready on" in cluster.output("second"), cluster.everything, 60)
        for node in nodes:
            assert len(cluster.processes("rank", node)) == 2
        second = hosts.HostServer(cluster)
        second.port = 8001
        assert_greedy_tokens(cluster.server)
        assert_greedy_tokens(second, other)
        # One's end is not the other's.
        ranks = {process.pid for process in cluster.processes("rank")}
        for process in cluster.processes("coordinator"):
            if str(configs[1]) in process.arguments:
                process.kill(signal.SIGTERM)
        wait_for(lambda: len(cluster.processes("rank")) == 2, cluster.everything)
        assert {process.pid for process in cluster.processes("rank")} < ranks
        assert_greedy_tokens(cluster.server)


def test_nobody_to_ask():
    if hosts.why_not() is not None:
        pytest.skip(str(hosts.why_not()))
    with hosts.Cluster(("node-a",), planned=True) as cluster:
        serve = cluster.scratch / "serve.yaml"
        serve.write_text("".join(line for line in serve.read_text().splitlines(True) if not line.startswith("cluster:")))
        coordinator = cluster.serve("--nodes-timeout", "1")
        assert coordinator.wait(30) == 1
        assert "skein: no agent came from node-a: start `skein agent` there" in cluster.log
        # Where agents would have to be asked, a plan alone cannot be made.
        refused = skein("plan", "--config", serve)
        assert refused.returncode == 2 and "which machines?" in refused.stderr
