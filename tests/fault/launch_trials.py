#!/usr/bin/env python3
"""Faults at any moment of a launch over several nodes: tests/fault/launch_trials.py [FIRST_SEED [COUNT]]

Each trial starts a coordinator for one replica over four nodes whose agents run, and at a moment that its seed chooses
kills one process, or cuts one node, or two from each other. The launch must end in running, or in one sentence and a
status other than 0, within a deadline, and no process of it may be left: not even on a node that is still cut off.
Prints a line for each trial, and exits with 1 if one failed.
"""

import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import hosts  # noqa: E402
from skein_server import SLOWER, wait_for  # noqa: E402

STARTUP_S = 15 * SLOWER  # --startup-timeout
DEADLINE_S = STARTUP_S + 10 * SLOWER
GONE_S = 20 * SLOWER  # a lease of 5 s, connections that notice after 5 s, and a busy machine
ORPHAN_S = 8  # a replica that serves lives so long without a coordinator
MOMENT_S = 1.5  # a launch takes about one
VICTIMS = ("coordinator", "agent", "mpirun", "orted", "rank", "rsh")


class Trial:
    def __init__(self, cluster, seed):
        self.cluster = cluster
        self.random = random.Random(seed)
        self.heal = lambda: None
        self.what = ""

    def run(self):
        """How it ended; raises AssertionError."""
        self.cluster.serve("--startup-timeout", str(STARTUP_S), "--orphan-timeout", str(ORPHAN_S))
        moment = self.random.uniform(0, MOMENT_S)
        until = time.monotonic() + moment
        while time.monotonic() < until and self.cluster.coordinator.poll() is None:
            time.sleep(0.005)  # the moment itself is what the seed chose
        self.strike()
        self.what = f"after {moment:.2f} s {self.what}"
        try:
            return self.outcome()
        finally:
            self.heal()

    def strike(self):
        if self.random.random() < 0.6:
            return self.kill()
        nodes = ["head", *self.cluster.nodes]
        network = self.cluster.network
        if self.random.random() < 0.5:
            node = self.random.choice(nodes)
            self.what = f"cut {node}"
            network.cut(node)
            self.heal = lambda: network.heal(node)
        else:
            one, other = self.random.sample(nodes, 2)
            self.what = f"cut {one} from {other}"
            network.cut_between(one, other)
            self.heal = lambda: network.heal_between(one, other)

    def kill(self):
        role = self.random.choice(VICTIMS)
        there = sorted(self.cluster.processes(role), key=lambda process: process.pid)
        if not there:  # not yet, or not any more
            role = self.random.choice(("agent", "coordinator"))
            there = sorted(self.cluster.processes(role), key=lambda process: process.pid)
        if there:
            self.random.choice(there).kill()
        self.what = f"killed {role}"

    def outcome(self):
        cluster = self.cluster
        wait_for(self.ended, lambda: f"an end of the launch: {cluster.everything()}", DEADLINE_S)
        status = cluster.coordinator.poll()
        if status is None and self.serves():
            # The fault came too late for the launch, or was survived.
            cluster.stop_coordinator()
            how = "ran"
        else:
            wait_for(lambda: cluster.coordinator.poll() is not None, cluster.everything, DEADLINE_S)
            status = cluster.coordinator.returncode
            last = cluster.log.rstrip().rpartition("\n")[2]
            if status == -9:
                how = "the coordinator was killed"
            else:
                assert status == 1 and last.startswith("skein: ") and len(last) > 20, f"status {status}: {cluster.log}"
                how = last
        cluster.assert_no_jobs(GONE_S)
        wait_for(self.agents_alone, lambda: f"agents alone: {cluster.processes()}", GONE_S)
        return how

    def agents_alone(self):
        """Whether nothing of any kind is left but what a node's own agent is: one process, and one that looks around."""
        def count(role, node):
            return len(self.cluster.processes(role, node))
        known = ("agent", "look", "nsenter")
        return all(process.role in known for process in self.cluster.processes()) and all(
            count("look", node) <= count("agent", node) <= 1 for node in ("head", *self.cluster.nodes))

    def ended(self):
        return self.cluster.coordinator.poll() is not None or "skein: ready on" in self.cluster.log

    def serves(self):
        """Whether the server answers, with tokens or with a sentence that says why not; False if it is gone."""
        self.cluster.wait_ready()
        try:
            reply = self.cluster.server.post("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 4})
        except OSError:
            return False  # killed between the moment that it was ready and this
        assert reply.status == 200 or len(reply.error["message"]) > 20, reply.body
        return True


def restore(cluster):
    """Every node has an agent again."""
    for node in cluster.nodes:
        if not cluster.processes("agent", node):
            cluster.start_agent(node, "--orphan-timeout", ORPHAN_S)
    wait_for(lambda: all(cluster.processes("agent", node) for node in cluster.nodes), "an agent on every node")


def main(first, count):
    failed = 0
    with hosts.Cluster() as cluster:
        restore(cluster)
        for seed in range(first, first + count):
            trial = Trial(cluster, seed)
            began = time.monotonic()
            try:
                how = trial.run()
            except AssertionError as error:
                failed += 1
                how = f"FAILED: {error}"
                for process in cluster.processes():
                    process.kill()
            print(f"seed {seed}: {trial.what}: {time.monotonic() - began:.1f} s: {how}", flush=True)
            restore(cluster)
    print(f"{count - failed} of {count} trials passed")
    return failed == 0


if __name__ == "__main__":
    reason = hosts.why_not()
    if reason:
        sys.exit(f"skipped: {reason}")
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 0, int(sys.argv[2]) if len(sys.argv) > 2 else 200))
