"""Starts `skein` as a user would, watches its processes, and proves that nothing stays behind.

Every program started here carries a mark in its environment, which whatever it starts inherits, and a folder of its
own for temporary files. So "nothing left" can be asserted exactly, also while other tests or users run Skein.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SKEIN_BIN", ROOT / "build/cpu/bin")).resolve()
FIXTURES = ROOT / "tests/oracles/fixtures"
MODEL = "llama_gqa"  # two shards, BF16, 4 layers, 6 heads, 2 KV heads, 333 ids, ChatML template

SANITIZED = b"__asan_init" in (BIN / "skein").read_bytes() if (BIN / "skein").exists() else False
SLOWER = 6 if SANITIZED else 1  # how much longer a deadline is for an instrumented build
READY_S = 60 * SLOWER
EXIT_S = 20 * SLOWER
REFUSED_S = 5 * SLOWER  # every failure at start is told within 5 s
GONE_S = 6 * SLOWER  # a lease of 2 s, and time for the kernel to clear away
MARK = "SKEIN_TEST_MARK"
GREEDY = {"temperature": 0, "max_tokens": 16, "ignore_eos": True, "return_token_ids": True}


def demo_model():
    """SmolLM2's GGUF file, or None where tests/run has not fetched it."""
    path = os.environ.get("SKEIN_SMOLLM2") or ROOT / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    return pathlib.Path(path) if pathlib.Path(path).exists() else None


def expected(name):
    return json.loads((FIXTURES / name / "expected.json").read_text())


def make_long_model(folder):
    """The tiny model with a context so long that an answer can outlast any test."""
    shutil.copytree(FIXTURES / MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100_000}))
    return folder


def wait_for(condition, what, seconds=EXIT_S):
    """The first true value of condition(); AssertionError names `what`, or what it returns, after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.02)


def _heed_interrupts():
    """A shell's background jobs, and all they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Process:
    """One process of a server, as /proc shows it."""

    def __init__(self, pid):
        self.pid = pid
        self.arguments = _read(pid, "cmdline").rstrip(b"\0").decode(errors="replace").split("\0")

    def __repr__(self):
        return f"{self.pid}: {' '.join(self.arguments)[:120]}"

    @property
    def role(self):
        name = os.path.basename(self.arguments[0])
        if name == "skein":
            command = "".join(self.arguments[1:2])
            return command if command in ("agent", "look", "rsh") else "coordinator"
        return {"skein-worker": "rank", "mpirun": "mpirun"}.get(name, name)

    @property
    def launch(self):
        """Which launch of a replica a rank or an mpirun belongs to: the folder of its specification."""
        return self.arguments[-1]

    @property
    def alive(self):
        return state_of(self.pid) not in ("", "Z", "X")

    def environment(self, name):
        for entry in _read(self.pid, "environ").split(b"\0"):
            key, _, value = entry.partition(b"=")
            if key == name.encode():
                return value.decode()
        return None

    def mapped_shared_memory(self):
        return {line.split(None, 5)[5] for line in _read(self.pid, "maps").decode().splitlines() if "/dev/shm/" in line}

    def cpu_ticks(self):
        fields = _read(self.pid, "stat").decode().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0

    def memory_kib(self, field):
        found = re.search(rf"^{field}:\s+(\d+) kB", _read(self.pid, "smaps_rollup").decode(), re.MULTILINE)
        return int(found[1]) if found else 0

    def kill(self, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _read(pid, name):
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it ended meanwhile, or is another user's
        return b""


def state_of(pid):
    return _read(pid, "stat").decode(errors="replace").rpartition(") ")[2][:1]


def shared_memory_names():
    return {name for name in os.listdir("/dev/shm") if name.startswith(("skein-", "vader_segment"))}


def left_behind(name):
    """Whether whoever made the segment is gone and nobody maps it. Its maker's process id is in the name: until that
    one ends, it may be between making the segment and mapping it, for another test run or user."""
    maker = re.match(r"\D*(\d+)", name)
    if maker and state_of(maker[1]) not in ("", "Z", "X"):
        return False
    return not any(f"/dev/shm/{name}".encode() in _read(pid, "maps") for pid in os.listdir("/proc") if pid.isdigit())


class Skein:
    """One run of `skein ARGUMENTS...`. Use as a context manager: the end kills what is left of it."""

    def __init__(self, *arguments, env=None, cwd=None, stdin=subprocess.DEVNULL):
        self.mark = uuid.uuid4().hex
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="skein-test-", dir="/tmp"))
        self.temporary = self.scratch / "tmp"
        self.temporary.mkdir()
        self.shared_memory_before = shared_memory_names()
        environment = {key: value for key, value in os.environ.items() if key != "XDG_RUNTIME_DIR"}
        environment |= {MARK: self.mark, "TMPDIR": str(self.temporary)} | (env or {})
        with open(self.scratch / "out", "wb") as out, open(self.scratch / "err", "wb") as err:
            # A group of its own, for signals, but the tests' session: Linux shares cores among sessions (autogroup);
            # one whose ranks keep every core busy was seen to keep these tests from running for up to 17 s.
            self.process = subprocess.Popen([str(BIN / "skein"), *map(str, arguments)], stdin=stdin, stdout=out,
                                            stderr=err, env=environment, cwd=cwd, process_group=0,
                                            preexec_fn=_heed_interrupts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        for process in self.processes():
            process.kill()
        wait_for(lambda: not self.processes(), "the end of what was killed")
        for name in shared_memory_names() - self.shared_memory_before:
            if left_behind(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"/dev/shm/{name}")
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def out(self):
        return (self.scratch / "out").read_text()

    @property
    def err(self):
        return (self.scratch / "err").read_text()

    def logs(self, event=None):
        """The JSON log lines, or those of one event."""
        lines = [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]
        return [line for line in lines if event is None or line["event"] == event]

    def messages(self):
        """What standard error holds besides log lines."""
        return [line for line in self.err.splitlines() if line and not line.startswith("{")]

    def processes(self, role=None):
        """Every process that this run started, itself included, zombies left out."""
        mark = f"{MARK}={self.mark}".encode()
        pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        found = [Process(pid) for pid in pids if mark in _read(pid, "environ").split(b"\0")]
        return [process for process in found if process.alive and role in (None, process.role)]

    def wait(self, seconds=EXIT_S):
        """The exit status, once the program has ended by itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s: {(self.out + self.err)[-600:]}") from None

    def shared_memory_left(self):
        return {name for name in shared_memory_names() - self.shared_memory_before if left_behind(name)}

    def assert_nothing_left(self, seconds=GONE_S, files=True):
        wait_for(lambda: not self.processes(), f"the end of {self.processes()}", seconds)
        wait_for(lambda: not self.shared_memory_left(), f"no segment left: {self.shared_memory_left()}", seconds)
        if files:
            left = sorted(str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*"))
            assert not left, f"files stayed behind: {left}"


class Server(Skein):
    """`skein serve` that is ready for requests."""

    def __init__(self, model, *flags, ready_s=READY_S, **options):
        super().__init__("serve", model, "--port", "0", *flags, **options)
        try:
            self.url = self._wait_until_ready(ready_s)
        except BaseException:
            self.__exit__()
            raise
        self.host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.host = self.host.strip("[]")
        self.port = int(port)
        self.model = self.get("/v1/models").json["data"][0]["id"] if "--api-key-file" not in flags else None

    def _wait_until_ready(self, seconds):
        def ready():
            found = re.search(r"^skein: ready on (http://\S+)\n", self.out, re.MULTILINE)
            assert found or self.process.poll() is None, f"it ended with {self.process.returncode}: {self.err}"
            return found
        return wait_for(ready, "skein: ready on ...", seconds)[1]

    def stop(self, number=signal.SIGTERM):
        """Ends the server cleanly and asserts that it left nothing."""
        self.process.send_signal(number)
        assert self.wait() == 0, self.err
        self.assert_nothing_left()

    def connection(self, seconds=120 * SLOWER):
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)

    def get(self, path, **headers):
        return self.request("GET", path, None, headers)

    def post(self, path, body, **headers):
        """`body`: anything JSON can hold, or bytes that are sent as they are."""
        return self.request("POST", path, body, {"Content-Type": "application/json"} | headers)

    def request(self, method, path, body, headers):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connection()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def complete(self, prompt, **fields):
        """The body of a greedy completion that must succeed; token ids are in choices[i]["token_ids"]."""
        reply = self.post("/v1/completions", GREEDY | {"prompt": prompt} | fields)
        assert reply.status == 200, reply.body
        return reply.json

    def tokens(self, prompt, **fields):
        return self.complete(prompt, **fields)["choices"][0]["token_ids"]

    def stream(self, prompt, **fields):
        return Stream(self, "/v1/completions", GREEDY | {"prompt": prompt} | fields)

    def metrics(self):
        """{(name, label value of engine, or of the only other label, or ""): value}"""
        values = {}
        for line in self.get("/metrics").body.decode().splitlines():
            found = re.match(r"([\w:]+)\{(.*)\} (\S+)$", line)
            if found and "_bucket" not in found[1]:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2]))
                labels.pop("model_name", None)
                values[found[1], "".join(labels.values())] = float(found[3])
        return values

    def total(self, name):
        return sum(value for (key, _), value in self.metrics().items() if key == name)

    def held(self):
        """What must be nothing when nobody asks for anything."""
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                 "skein_requests_in_flight")
        return {key: value for key, value in self.metrics().items() if key[0] in names and value != 0}

    def assert_idle(self, seconds=EXIT_S):
        wait_for(lambda: not self.held(), f"nothing held, but {self.held()}", seconds)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Stream:
    """A streamed answer: iterate over its JSON events. Ends at [DONE]; `done` says whether that came."""

    def __init__(self, server, path, body):
        self.connection = server.connection()
        self.done = False
        self.connection.request("POST", path, json.dumps({"stream": True} | body), {"Content-Type": "application/json"})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()

    def __iter__(self):
        while line := self.response.readline():
            if line.startswith(b"data: [DONE]"):
                self.done = True
            elif line.startswith(b"data: "):
                yield json.loads(line[6:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.response.close()
        self.connection.close()


def streamed(stream):
    """Text, token ids, finish reason and error of a streamed completion with one choice, read to its end."""
    text, tokens, reason, error = "", [], None, None
    for event in stream:
        error = error or event.get("error")
        for choice in event.get("choices", []):
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            tokens += choice.get("token_ids") or []
            reason = choice["finish_reason"] or reason
    return text, tokens, reason, error


class Reader:
    """Takes a stream's bytes in a thread of its own, fast enough not to be cut off as a slow client. What came so far
    can be looked at any time."""

    def __init__(self, stream):
        self.stream = stream
        self._bytes = bytearray()
        self._parsed = 0
        self._tokens, self._error, self._reason = [], None, None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):  # cut off, or closed by close()
            while part := self.stream.response.read1(1 << 16):
                self._bytes += part

    def _parse(self):
        end = self._bytes.rfind(b"\n") + 1
        lines, self._parsed = bytes(self._bytes[self._parsed:end]).splitlines(), end
        for line in lines:
            self.stream.done |= line == b"data: [DONE]"
            event = json.loads(line[6:]) if line.startswith(b"data: {") else {}
            self._error = event.get("error", self._error)
            for choice in event.get("choices", []):
                self._tokens += choice["token_ids"]
                self._reason = choice["finish_reason"] or self._reason

    @property
    def ended(self):
        return not self.thread.is_alive()

    @property
    def tokens(self):
        self._parse()
        return self._tokens

    @property
    def error(self):
        self._parse()
        return self._error

    @property
    def reason(self):
        self._parse()
        return self._reason

    @property
    def done(self):
        """Whether the stream said that it is complete."""
        self._parse()
        return self.stream.done

    def close(self):
        with contextlib.suppress(OSError):
            self.stream.connection.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.stream.close()
