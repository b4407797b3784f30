"""Namespaces as hosts: network, UTS, IPC, mount and PID namespaces each, a /tmp and a /dev/shm of their own, joined
by a bridge. Nothing passes between them but packets, and any of them can be stopped."""

import ctypes
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid

from skein_server import BIN, EXIT_S, FIXTURES, MARK, MODEL, READY_S, ROOT, Process, Server, _read, wait_for

CLONE_NEWNET = 0x40000000
SUBNET = "10.77.0"
PORT = 7300
INIT = "import os, signal\nsignal.signal(signal.SIGCHLD, lambda *_: None)\nprint('ready', flush=True)\n" \
       "while True:\n    try:\n        os.wait()\n    except ChildProcessError:\n        signal.pause()\n"


def _run(*arguments, stdin=None):
    done = subprocess.run(list(map(str, arguments)), input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def why_not():
    """Why this machine cannot make such hosts, or None."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    probe = "ip link set lo up && ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2"
    done = subprocess.run(["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c",
                           probe], capture_output=True, text=True)
    if done.returncode != 0:
        return f"namespaces, bridges and veth pairs need root here: {done.stderr.strip()[:200]}"
    return None


def why_not_limit():
    """Why this machine cannot limit what a link carries, or None."""
    if shutil.which("tc") is None:
        return "there is no tc"
    done = subprocess.run(["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst",
                           "10kb", "latency", "10ms"], capture_output=True, text=True)
    return f"tc cannot limit a link here: {done.stderr.strip()[:200]}" if done.returncode != 0 else None


class Host:
    """One host: an init process that reaps, in namespaces of its own."""

    def __init__(self, name, number):
        self.name = name
        self.address = f"{SUBNET}.{number}"
        # A tree that lies in /tmp stays to be seen.
        script = ("case $3 in /tmp/*) mount --bind \"$3\" /mnt; esac && mount -t tmpfs tmpfs /tmp && "
                  "case $3 in /tmp/*) mkdir -p \"$3\" && mount --move /mnt \"$3\"; esac && "
                  "mount -t tmpfs tmpfs /dev/shm && hostname \"$1\" && ip link set lo up && exec python3 -S -c \"$2\"")
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
             "--propagation", "private", "sh", "-c", script, "init", name, INIT, ROOT],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n", f"host {name} did not come up"
        children = pathlib.Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        self.init = int(children[0])

    def inside(self, *arguments):
        """A command line that runs there."""
        return ["nsenter", "--target", str(self.init), "--all", "--", *map(str, arguments)]

    def run(self, *arguments):
        return _run(*self.inside(*arguments))

    def batch(self, *lines):
        """Lines of ip, on that host's network."""
        _run("nsenter", "--target", self.init, "--net", "ip", "-batch", "-", stdin="\n".join(lines) + "\n")

    def reset_connections(self, port):
        """Those of its port are gone, and with them what nobody has read yet."""
        self.run("ss", "--kill", "--tcp", "--numeric", f"sport = :{port}")

    def holds(self, process):
        return _namespace(process.pid) == _namespace(self.init)

    def socket(self, port):
        """A connection from there to a port of its own loopback."""
        made = {}

        def make():
            with open(f"/proc/{self.init}/ns/net") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    made["error"] = OSError(ctypes.get_errno(), "setns")
                    return
            try:
                made["socket"] = socket.create_connection(("127.0.0.1", port), timeout=60)
            except OSError as error:
                made["error"] = error

        thread = threading.Thread(target=make)  # setns moves one thread
        thread.start()
        thread.join()
        if "error" in made:
            raise made["error"]
        return made["socket"]

    def close(self):
        self.holder.kill()  # and with it the init, and with that everything in its PID namespace
        self.holder.wait()
        self.holder.stdout.close()


def _namespace(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


class Network:
    """Hosts on one bridge, which is in a namespace of its own."""

    def __init__(self, *names):
        self.switch = Host("switch", 254)
        self.switch.batch("link add br0 type bridge", "link set br0 up")
        self.hosts = {}
        for number, name in enumerate(names, 1):
            host = self.hosts[name] = Host(name, number)
            self.switch.batch(f"link add port{number} type veth peer name eth0 netns {host.init}",
                              f"link set port{number} master br0", f"link set port{number} up")
            host.batch(f"address add {host.address}/24 dev eth0", "link set eth0 up")

    def limit(self, name, mbit):
        """That host's link carries so much, each way."""
        for host, device in ((self.switch, f"port{self._number(name)}"), (self.hosts[name], "eth0")):
            host.run("tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency",
                     "200ms")

    def cut(self, name):
        """No packet to or from that host."""
        self.switch.batch(f"link set port{self._number(name)} down")

    def heal(self, name):
        self.switch.batch(f"link set port{self._number(name)} up")

    def cut_between(self, one, other):
        """No packet between two hosts; others are reached."""
        for here, there in ((one, other), (other, one)):
            self.hosts[here].batch(f"route add blackhole {self.hosts[there].address}/32")

    def heal_between(self, one, other):
        for here, there in ((one, other), (other, one)):
            self.hosts[here].batch(f"route delete blackhole {self.hosts[there].address}/32")

    def _number(self, name):
        return list(self.hosts).index(name) + 1

    def close(self):
        for host in [*self.hosts.values(), self.switch]:
            host.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, host, port):
        super().__init__("127.0.0.1", port)
        self._skein_host = host

    def connect(self):
        self.sock = self._skein_host.socket(self.port)


class HostServer(Server):
    """`skein serve` on a host; only what asks it questions is used of Server."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.port = None

    def connection(self, seconds=None):
        return _Connection(self.cluster.network.hosts["head"], self.port)


class Cluster:
    """A coordinator on `head` and an agent on each node. Use as a context manager; its end leaves nothing. With
    `planned` no replicas are named: `extra` says what the planner is told."""

    def __init__(self, nodes=("node-a", "node-b", "node-c", "node-d"), replicas=None, model=FIXTURES / MODEL, extra="",
                 planned=False, kv_bytes=1_000_000):
        self.mark = uuid.uuid4().hex
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="skein-hosts-", dir="/var/tmp"))
        self.network = Network("head", *nodes)
        self.nodes = nodes
        self.launched = []  # everything started, as Popen
        self.count = 0
        self.server = HostServer(self)
        _run(BIN / "skein", "keys", "--out", self.scratch / "keys", *nodes)
        if planned:
            extra += f"cluster: {self.describe_nodes(nodes)}\n"
        elif replicas is None:
            places = ", ".join(f"{node}:0" for node in nodes)
            replicas = f"  - {{tensor_parallel_size: 2, pipeline_parallel_size: 2, places: [{places}]}}"
        if replicas is not None:
            extra += f"replicas:\n{replicas}\n"
        (self.scratch / "serve.yaml").write_text(
            f"model: {model}\ndtype: float32\nport: 8000\nlisten: tcp://{self.network.hosts['head'].address}:{PORT}\n"
            f"key_file: {self.scratch}/keys/coordinator.key\nallow_list: {self.scratch}/keys/allow-list\n"
            f"threads_per_rank: 1\nkv_cache_memory_bytes: {kv_bytes}\n{extra}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.network.close()
        for process in self.launched:
            process.wait()
        assert not self.processes(), f"a closed namespace left {self.processes()}"
        shutil.rmtree(self.scratch, ignore_errors=True)

    def describe_nodes(self, nodes, racks=None):
        """A cluster file with these nodes, each a single core with a network."""
        rack_of = {node: f"rack: {rack}, " for node, rack in (racks or {}).items()}
        path = self.scratch / "cluster.yaml"
        path.write_text("cluster: hosts\nkinds:\n  - {name: a core, type: cpu, read_gb_per_s: 10, tflops: 0.05}\nnodes:\n" +
                        "".join(f"  - {{name: {node}, {rack_of.get(node, '')}cores: 1, memory_gib: 2, "
                                "devices: [{kind: a core}], nics: [{name: eth0, network: tcp, gbit_per_s: 10}]}\n"
                                for node in nodes))
        return path

    def start(self, host, *arguments, name=None, env=None):
        """Runs skein there. What it writes is in output(name)."""
        name = name or f"run-{len(self.launched)}"
        environment = {key: value for key, value in os.environ.items() if key not in ("XDG_RUNTIME_DIR", "TMPDIR")}
        with open(self.scratch / f"{name}.log", "ab") as log:
            process = subprocess.Popen(self.network.hosts[host].inside(BIN / "skein", *arguments),
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=environment | {MARK: self.mark} | (env or {}))
        self.launched.append(process)
        return process

    def output(self, name):
        path = self.scratch / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def start_agent(self, node, *flags, env=None):
        return self.start(node, "agent", "--coordinator", f"tcp://{self.network.hosts['head'].address}:{PORT}", "--name",
                          node, "--key-file", self.scratch / f"keys/{node}.key", *flags, name=node, env=env)

    def start_agents(self, *flags, env=None):
        for node in self.nodes:
            self.start_agent(node, *flags, env=env)

    def serve(self, *flags, env=None):
        self.count += 1
        self.log_name = f"serve-{self.count}"
        self.coordinator = self.start("head", "serve", "--config", self.scratch / "serve.yaml", *flags,
                                      name=self.log_name, env=env)
        return self.coordinator

    @property
    def log(self):
        return self.output(self.log_name)

    def wait_ready(self, seconds=READY_S):
        def ready():
            found = re.search(r"^skein: ready on http://\S+:(\d+)\n", self.log, re.MULTILINE)
            assert found or self.coordinator.poll() is None, f"it ended with {self.coordinator.poll()}: {self.everything()}"
            return found
        self.server.port = int(wait_for(ready, lambda: f"ready: {self.everything()}", seconds)[1])

    def measure(self, name, *flags, settings=lambda text: text):
        """Measures what the network carries, with the settings that the coordinator has; into links(name)."""
        config = self.scratch / f"{name}-settings.yaml"
        config.write_text(settings((self.scratch / "serve.yaml").read_text()))
        return self.start("head", "topology", "--measure", "--config", config, "--output", self.scratch / f"{name}.yaml",
                          *flags, name=name)

    def measured(self, process, name, status=0):
        """What a measurement wrote that ends with that status; nothing of it is left."""
        wait_for(lambda: process.poll() is not None, self.everything, READY_S)
        assert process.returncode == status, self.output(name)
        assert not self.processes("coordinator")
        self.assert_no_jobs()
        return self.output(name)

    def links(self, name):
        """(described latency, sizes, times) of each link that was measured."""
        def numbers(pattern, entry):
            return [float(number) for number in re.search(pattern, entry)[1].split(",")]

        entries = re.split(r"^  - link: ", (self.scratch / f"{name}.yaml").read_text(), flags=re.MULTILINE)[1:]
        return [(numbers(r"described_latency_us: (\S+)", entry)[0], numbers(r" x: \[(.*)\]", entry),
                 numbers(r" y: \[(.*)\]", entry)) for entry in entries]

    def everything(self):
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.scratch.glob("*.log")))

    def processes(self, role=None, host=None):
        mark = f"{MARK}={self.mark}".encode()
        pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        found = [Process(pid) for pid in pids if mark in _read(pid, "environ").split(b"\0")]
        return [process for process in found if process.alive and role in (None, process.role) and
                (host is None or self.network.hosts[host].holds(process))]

    def jobs(self):
        """Everything that belongs to a launch."""
        return [process for role in ("mpirun", "orted", "rank", "rsh") for process in self.processes(role)]

    def assert_no_jobs(self, seconds=EXIT_S):
        wait_for(lambda: not self.jobs(), lambda: f"no job left: {self.jobs()}", seconds)

    def stop_coordinator(self):
        for process in self.processes("coordinator"):
            process.kill(signal.SIGTERM)
        assert self.coordinator.wait(EXIT_S) == 0, self.log
