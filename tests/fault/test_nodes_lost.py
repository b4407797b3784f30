"""What a cluster survives: a coordinator, agents, nodes and links that go at any moment."""

import pathlib
import signal
import tempfile

import pytest

import hosts
import launch_trials
from skein_server import SLOWER, Reader, make_long_model, wait_for

pytestmark = pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))

PROMPT = [7, 1, 8, 2, 8]


@pytest.fixture(scope="module")
def cluster():
    """Four nodes with a replica, whose answers can be as long as a test needs."""
    # Hosts have a /tmp of their own.
    with tempfile.TemporaryDirectory(prefix="skein-long-", dir="/var/tmp") as folder, \
            hosts.Cluster(model=make_long_model(pathlib.Path(folder) / "model"), extra="max_model_len: 3000\n") as made:
        made.start_agents()
        made.serve()
        made.wait_ready()
        yield made


@pytest.fixture(autouse=True)
def restored(cluster):
    """Every test finds an agent on every node, a replica that serves, and a coordinator that has seen none lost: it
    would wait ever longer before it launches one again."""
    yield
    launch_trials.restore(cluster)
    cluster.stop_coordinator()
    cluster.serve()
    cluster.wait_ready()


def ready(cluster):
    return cluster.coordinator.poll() is None and cluster.server.get("/readyz").status == 200


def pids(cluster):
    return sorted(process.pid for process in cluster.jobs())


def test_a_restarted_coordinator_adopts_what_runs(cluster):
    answer = cluster.server.tokens(PROMPT)
    before = pids(cluster)
    reader = Reader(cluster.server.stream(PROMPT, max_tokens=2900))
    wait_for(lambda: len(reader.tokens) > 10, "the stream's first tokens")
    cluster.processes("coordinator")[0].kill()
    cluster.coordinator.wait()
    wait_for(lambda: reader.ended, "the end of the client's connection")
    reader.close()
    cluster.serve()
    cluster.wait_ready()
    assert pids(cluster) == before, "it was launched again"
    assert cluster.server.tokens(PROMPT) == answer
    # What the coordinator before asked for holds nothing any more.
    wait_for(lambda: not cluster.server.held(), lambda: f"nothing held, but {cluster.server.held()}")


def test_a_coordinator_with_another_plan_ends_what_runs(cluster):
    before = set(pids(cluster))
    cluster.processes("coordinator")[0].kill()
    cluster.coordinator.wait()
    cluster.serve("--max-num-seqs", "8")
    cluster.wait_ready()
    assert not before & set(pids(cluster))
    assert cluster.server.tokens(PROMPT)
    cluster.stop_coordinator()
    cluster.serve()
    cluster.wait_ready()


@pytest.mark.parametrize("role", ["rank", "orted", "mpirun", "agent"])
def test_a_killed_process_ends_its_replica_alone(cluster, role):
    before = set(pids(cluster))
    reader = Reader(cluster.server.stream(PROMPT, max_tokens=2900))
    wait_for(lambda: len(reader.tokens) > 10, "the stream's first tokens")
    cluster.processes(role)[-1].kill()
    wait_for(lambda: reader.ended, "the end of the stream")
    assert "was lost" in reader.error["message"]
    reader.close()
    wait_for(lambda: not before & set(pids(cluster)), lambda: f"the launch's end: {cluster.jobs()}")
    launch_trials.restore(cluster)
    wait_for(lambda: ready(cluster), cluster.everything, 60)
    assert cluster.server.tokens(PROMPT)


def test_requests_end_when_a_connection_takes_their_frames_with_it(cluster):
    before = pids(cluster)
    said = len(cluster.log)  # what this coordinator found when it started is not meant
    readers = [Reader(cluster.server.stream([seed, *PROMPT], max_tokens=2900)) for seed in range(3)]
    wait_for(lambda: all(len(reader.tokens) > 10 for reader in readers), "the streams' first tokens")
    coordinator = cluster.processes("coordinator")[0]
    coordinator.kill(signal.SIGSTOP)
    try:
        wait_for(lambda: unread(cluster) > 5000, lambda: f"tokens that nobody has read: {unread(cluster)}")
        cluster.network.hosts["head"].reset_connections(hosts.PORT)
    finally:
        cluster.coordinator.send_signal(signal.SIGCONT)  # nsenter stops with it, and sends the signal on
    wait_for(lambda: all(reader.ended for reader in readers), lambda: f"the streams' end: {cluster.everything()}")
    assert all("the connection to it broke" in reader.error["message"] for reader in readers)
    for reader in readers:
        reader.close()
    wait_for(lambda: not cluster.server.held(), lambda: f"nothing held, but {cluster.server.held()}")
    assert cluster.server.tokens(PROMPT)
    assert pids(cluster) == before and "replica lost" not in cluster.log[said:]


def unread(cluster):
    """Bytes that wait at the coordinator's port."""
    lines = cluster.network.hosts["head"].run("ss", "--tcp", "--numeric", "--no-header", f"sport = :{hosts.PORT}")
    return sum(int(line.split()[1]) for line in lines.splitlines() if line.startswith("ESTAB"))


@pytest.mark.parametrize("node", ["node-a", "node-d"])
def test_an_agent_that_is_started_again_at_once(cluster, node):
    """As systemd does: the coordinator has not missed the one before yet."""
    before = set(pids(cluster))
    said = len(cluster.log)
    cluster.processes("agent", node)[0].kill()
    wait_for(lambda: not cluster.processes("agent", node), "its end")
    agent = cluster.start_agent(node)
    wait_for(lambda: "replica lost" in cluster.log[said:], cluster.everything)
    wait_for(lambda: ready(cluster), cluster.everything, 60)
    assert agent.poll() is None and cluster.server.tokens(PROMPT) and not before & set(pids(cluster))


# With mpirun; with orted.
@pytest.mark.parametrize("node", ["node-a", "node-c"])
def test_a_node_that_is_cut_off_comes_back(cluster, node):
    before = set(pids(cluster))
    cluster.network.cut(node)
    try:
        wait_for(lambda: not ready(cluster), "the loss")
        # Its ranks, too, though nobody can tell them: their connections are dead.
        wait_for(lambda: not before & set(pids(cluster)), lambda: f"the launch's end: {cluster.jobs()}",
                 launch_trials.GONE_S)
    finally:
        cluster.network.heal(node)
    wait_for(lambda: ready(cluster), cluster.everything, 60)
    assert cluster.server.tokens(PROMPT)


# Plans and mpirun; a pair that adds; a stage and the next.
@pytest.mark.parametrize("pair", [("node-a", "node-c"), ("node-c", "node-d"), ("node-b", "node-d")])
def test_a_cut_between_two_nodes_is_not_waited_out(cluster, pair):
    reader = Reader(cluster.server.stream(PROMPT, max_tokens=2900))
    wait_for(lambda: len(reader.tokens) > 10, "the stream's first tokens")
    cluster.network.cut_between(*pair)
    try:
        wait_for(lambda: reader.ended, lambda: f"the end of the stream: {cluster.everything()}", launch_trials.GONE_S)
    finally:
        reader.close()
        cluster.network.heal_between(*pair)


def test_an_orphaned_replica_ends_with_its_lease():
    with hosts.Cluster(("node-a", "node-b"), "  - {tensor_parallel_size: 2, places: [node-a:0, node-b:0]}") as cluster:
        cluster.start_agents("--orphan-timeout", "3")
        cluster.serve("--orphan-timeout", "3")
        cluster.wait_ready()
        cluster.processes("coordinator")[0].kill()
        cluster.assert_no_jobs(launch_trials.GONE_S)
        assert len(cluster.processes("agent")) == 2
        for agent in cluster.processes("agent"):
            agent.kill(signal.SIGTERM)
        wait_for(lambda: not cluster.processes(), lambda: f"the agents' end: {cluster.processes()}")


def test_faults_at_any_moment_of_a_launch():
    with hosts.Cluster() as cluster:
        launch_trials.restore(cluster)
        for seed in range(8 if SLOWER == 1 else 3):
            trial = launch_trials.Trial(cluster, seed)
            try:
                trial.run()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {trial.what}") from error
            launch_trials.restore(cluster)
