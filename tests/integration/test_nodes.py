"""Replicas over several nodes: real agents, real mpirun, real sockets, on namespaces as hosts."""

import pytest

import hosts
from skein_server import FIXTURES, MODEL, expected

pytestmark = pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))


def test_four_nodes_serve_one_replica():
    with hosts.Cluster() as cluster:
        cluster.start_agents()
        cluster.serve()
        cluster.wait_ready()
        print(cluster.everything())
        print(cluster.server.tokens([1, 2, 3]))
        cluster.stop_coordinator()
        cluster.assert_no_jobs()
