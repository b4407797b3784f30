"""What cannot be served: one sentence with the cause, soon, an exit status that is not 0, and nothing left behind."""

import json
import os
import shutil
import socket
import stat
import struct
import time

import pytest

from skein_server import FIXTURES, MODEL, REFUSED_S, Skein

TINY = FIXTURES / MODEL
GGUF = FIXTURES / "gguf_llama_q8_0/model.gguf"
ONE_FILE = FIXTURES / "llama_mha"  # a single safetensors file


def refused(*arguments, env=None):
    """The one sentence that `skein ARGUMENTS...` ends with."""
    with Skein(*arguments, env=env) as run:
        status = run.wait(REFUSED_S)
        assert status not in (0, None) and 0 < status < 126, f"exit status {status}: {run.err}"
        assert "ready on" not in run.out
        messages = [line for line in run.messages() if not line.startswith("loading ")]  # skein chat says so
        assert len(messages) == 1, run.err
        message = messages[0]
        assert message.startswith("skein: "), message
        run.assert_nothing_left()
        return message


def serve_refused(model, *flags, env=None):
    return refused("serve", model, "--port", "0", *flags, env=env)


def copy_of(source, tmp_path, **config):
    """A copy of a model's folder, with other values in its config.json; None takes a key out."""
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    if config:
        old = json.loads((folder / "config.json").read_text())
        new = {key: value for key, value in (old | config).items() if value is not None}
        (folder / "config.json").write_text(json.dumps(new))
    return folder


def edit_safetensors(path, edit):
    """Rewrites the header: edit(header) changes it in place. The data stays."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])


# ---- the model's files

def test_missing_model():
    assert "/no/such/model" in serve_refused("/no/such/model")


def test_hub_name_that_is_not_downloaded(tmp_path):
    message = serve_refused("someone/some-model", env={"HF_HUB_CACHE": str(tmp_path)})
    assert "hf download someone/some-model" in message


def test_empty_folder(tmp_path):
    assert "config.json" in serve_refused(tmp_path)


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "notes.gguf"
    path.write_text("not a model")
    assert str(path) in serve_refused(path)


@pytest.mark.parametrize("keep", [0, 3, 20, 1000, 0.3, 0.99])
def test_truncated_gguf(tmp_path, keep):
    data = GGUF.read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(data[:int(keep * len(data)) if isinstance(keep, float) else keep])
    assert str(path) in serve_refused(path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_truncated_safetensors(tmp_path, keep):
    path = copy_of(ONE_FILE, tmp_path) / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:int(keep * len(data)) if isinstance(keep, float) else keep])
    assert "model.safetensors" in serve_refused(path.parent)


def test_missing_shard(tmp_path):
    folder = copy_of(TINY, tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in serve_refused(folder)


def test_missing_tensor(tmp_path):
    folder = copy_of(ONE_FILE, tmp_path)
    name = "model.layers.2.self_attn.k_proj.weight"
    edit_safetensors(folder / "model.safetensors", lambda header: header.update({"other": header.pop(name)}))
    assert name.removeprefix("model.") in serve_refused(folder)


def test_tensor_of_the_wrong_shape(tmp_path):
    folder = copy_of(ONE_FILE, tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    edit_safetensors(folder / "model.safetensors", lambda header: header[name]["shape"].reverse())
    message = serve_refused(folder)
    assert name in message and "84" in message and "64" in message


def test_tensor_that_lies_about_its_place(tmp_path):
    folder = copy_of(ONE_FILE, tmp_path)
    name = "model.norm.weight"
    edit_safetensors(folder / "model.safetensors", lambda header: header[name].update(data_offsets=[1 << 62, (1 << 62) + 128]))
    assert name in serve_refused(folder)


def test_config_of_another_shape(tmp_path):
    assert "model.embed_tokens.weight" in serve_refused(copy_of(ONE_FILE, tmp_path, vocab_size=640))


def test_unknown_architecture(tmp_path):
    message = serve_refused(copy_of(ONE_FILE, tmp_path, architectures=["MambaForCausalLM"], model_type="mamba"))
    assert "MambaForCausalLM" in message
    assert all(known in message for known in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"architectures": 7}', "[" * 100_000])
def test_config_that_is_no_config(tmp_path, text):
    folder = copy_of(ONE_FILE, tmp_path)
    (folder / "config.json").write_text(text)
    assert "config.json" in serve_refused(folder)


def test_tokenizer_larger_than_the_vocabulary(tmp_path):
    folder = copy_of(ONE_FILE, tmp_path)
    shutil.copy(FIXTURES / "mistral_window/tokenizer.json", folder)
    message = serve_refused(folder)
    assert "400" in message and "320" in message and "tokenizer" in message


def test_tokenizer_that_is_damaged(tmp_path):
    folder = copy_of(ONE_FILE, tmp_path)
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"')
    assert "tokenizer.json" in serve_refused(folder)


# ---- shapes and sizes

def test_more_tensor_parallel_ranks_than_heads():
    message = serve_refused(TINY, "--tensor-parallel-size", 16)
    assert "16" in message and "6" in message, "it names what is possible"


def test_more_stages_than_layers():
    message = serve_refused(TINY, "--pipeline-parallel-size", 5)
    assert "5" in message and "4" in message


def test_quantised_blocks_that_cannot_be_split():
    assert "tensor parallel" in serve_refused(FIXTURES / "gguf_qwen2/model.gguf", "--tensor-parallel-size", 3).lower().replace("-", " ")


def test_context_longer_than_the_models():
    message = serve_refused(TINY, "--max-model-len", 4096)
    assert "4096" in message and "2048" in message


def test_context_that_does_not_fit():
    message = serve_refused(TINY, "--max-model-len", 2048, "--kv-cache-memory-bytes", 1 << 16)
    assert "max-model-len" in message and "KiB" in message


def test_kv_cache_smaller_than_a_block():
    assert "kv-cache-memory-bytes" in serve_refused(TINY, "--kv-cache-memory-bytes", 100)


def test_kv_cache_larger_than_memory():
    message = serve_refused(TINY, "--kv-cache-memory-bytes", 1 << 50)
    assert "kv-cache-memory-bytes" in message and "GiB" in message


def test_model_larger_than_memory(tmp_path):
    folder = copy_of(ONE_FILE, tmp_path, hidden_size=1 << 14, num_attention_heads=128,
                     num_key_value_heads=128, intermediate_size=1 << 16, num_hidden_layers=100)
    message = serve_refused(folder, "--load-format", "dummy")
    assert "GiB" in message or "TiB" in message


# ---- the machine

def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused("serve", TINY, "--port", port)


def test_address_that_is_not_ours():
    assert "192.0.2.1" in serve_refused(TINY, "--host", "192.0.2.1", "--insecure")


def test_another_address_needs_a_key():
    message = serve_refused(TINY, "--host", "0.0.0.0")
    assert "--api-key-file" in message and "--insecure" in message


def test_api_key_file(tmp_path):
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.write_text("\n\n")
    assert str(missing) in serve_refused(TINY, "--api-key-file", missing)
    assert str(empty) in serve_refused(TINY, "--api-key-file", empty)
    assert str(tmp_path) in serve_refused(TINY, "--api-key-file", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_api_key_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "key"
    path.write_text("secret\n")
    path.chmod(0)
    assert str(path) in serve_refused(TINY, "--api-key-file", path)


def test_no_mpirun():
    assert "mpirun" in serve_refused(TINY, env={"PATH": "/nonexistent"})


def program(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("text", ["echo 'no route to anywhere' >&2; exit 3\n", "exit 0\n", "kill -SEGV $$\n"],
                         ids=["fails", "ends at once", "crashes"])
def test_mpirun_that_fails(tmp_path, text):
    program(tmp_path, "mpirun", text)
    message = serve_refused(TINY, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert "status" in message and ("no route" in message) == ("no route" in text)


@pytest.mark.parametrize("text", ["echo 'skein-worker: out of paper' >&2; exit 1\n", "kill -KILL $$\n"],
                         ids=["fails", "is killed"])
def test_a_rank_that_fails(tmp_path, text):
    """mpirun is the real one, but starts something else for rank 1, before MPI is up."""
    mpirun = shutil.which("mpirun")
    program(tmp_path, "worker", f'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then\n{text}fi\nexec "$@"\n')
    program(tmp_path, "mpirun", 'n=$(($# - 2))\ni=0\nfor a; do\n  shift\n  [ $i = $n ] && set -- "$@" "$WORKER"\n'
            f'  set -- "$@" "$a"\n  i=$((i + 1))\ndone\nexec {mpirun} "$@"\n')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WORKER": str(tmp_path / "worker")}
    message = serve_refused(TINY, "--tensor-parallel-size", 2, env=environment)
    assert ("out of paper" in message) == ("paper" in text)


def test_startup_timeout(tmp_path):
    program(tmp_path, "mpirun", "exec sleep 1000\n")
    begun = time.monotonic()
    message = serve_refused(TINY, "--startup-timeout", 1, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert "not ready within 1 s" in message and time.monotonic() - begun >= 1


def test_a_temporary_folder_that_cannot_be_written(tmp_path):
    assert "no-such" in serve_refused(TINY, env={"TMPDIR": str(tmp_path / "no-such")})


# ---- settings

def test_yaml_that_cannot_be_read(tmp_path):
    assert "missing.yaml" in refused("serve", TINY, "--config", tmp_path / "missing.yaml")


@pytest.mark.parametrize("text,line,part", [
    ("port: 0\nmax_model_len: [1, 2\n", None, "yaml"),
    ("port: 0\n\nmax_model_length: 5\n", 3, "max_model_len"),
    ("port: 0\nmax_num_seqs: many\n", 2, "whole number"),
    ("port: 70000\n", 1, "65535"),
    ("port: 0\ndevice: gpu\n", 2, "cpu"),
    ("port: 0\nhost:\n  a: 1\n", None, "host"),
    ("port: 0\nreplicas:\n  - tensor_paralel_size: 2\n", 3, "tensor_parallel_size"),
    ("port: 0\nreplicas:\n  - tensor_parallel_size: 0\n", 3, "1024"),
    ("port: 0\nreplicas: 2\n", 2, "replicas"),
    ("config: other.yaml\n", 1, "config"),
    ("- 1\n", None, "map"),
])
def test_bad_yaml_names_file_and_line(tmp_path, text, line, part):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    message = refused("serve", TINY, "--config", path)
    assert f"{path}:{line}" in message if line else str(path) in message
    assert part in message


@pytest.mark.parametrize("flags,part", [
    (["--max-model-length", "5"], "did you mean --max-model-len?"),
    (["--tensor-paralel-size=2"], "did you mean --tensor-parallel-size?"),
    (["--objective", "fast"], "not \"fast\""),
    (["--bogus"], "unknown setting --bogus"),
    (["--dtype", "float23"], "did you mean float32?"),
    (["--load-format", "dumy"], "did you mean dummy?"),
    (["--device", "cuda"], "cpu"),
    (["--max-num-seqs", "-1"], "from 1 to 4096"),
    (["--max-num-seqs", "1e3"], "whole number"),
    (["--kv-cache-memory-bytes", "99999999999999999999"], "whole number"),
    (["--drain-seconds", "nan"], "number"),
    (["--port"], "needs a value"),
    (["-p", "8000"], "two dashes"),
    (["another-model"], "another-model"),
])
def test_bad_flags(flags, part):
    assert part in refused("serve", TINY, *flags)


def test_no_model():
    assert "model" in refused("serve")


def test_chat_template_with_an_error(tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text("{% for message in messages %}\n{{ message.content }\n{% endfor %}")
    message = serve_refused(TINY, "--chat-template", path)
    assert str(path) in message and "line 2" in message
    assert "missing.jinja" in serve_refused(TINY, "--chat-template", tmp_path / "missing.jinja")


@pytest.mark.parametrize("command", ["plan", "chat", "bench"])
def test_other_commands_refuse_the_same_way(command):
    arguments = {"plan": ["plan"], "chat": ["chat", "--prompt", "x"], "bench": ["bench", "offline"]}[command]
    assert "/no/such/model" in refused(*arguments, "/no/such/model")


@pytest.mark.parametrize("command", [["chat", "--prompt", "x"], ["bench", "offline"]], ids=" ".join)
class TestLocalCommands:
    """They read --config as `skein serve` does, and have no settings of a server."""

    def test_missing_file(self, command, tmp_path):
        assert "missing.yaml" in refused(*command, TINY, "--config", tmp_path / "missing.yaml")

    @pytest.mark.parametrize("text, sentence", [
        ("port: [1\n", "line"),
        ("prot: 1\n", ":1: unknown setting prot; did you mean port?"),
        ("cluster: c\nreplicas:\n  - {count: 2}\n", "leave one of them out"),
        ("cluster: here\nmodels:\n  - {model: a}\n", "one server serves one model"),
        ("listen: tcp://10.0.0.1:7300\nkey_file: k\nallow_list: a\n", "give it a file without listen"),
    ], ids=lambda value: value.split(":")[0])
    def test_file(self, command, text, sentence, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        message = refused(*command, TINY, "--config", path)
        assert sentence in message and str(path) in message or "cluster" in text

    @pytest.mark.parametrize("flag", ["listen", "nodes-timeout", "key-file", "allow-list", "ports", "orphan-timeout", "host",
                                      "port", "max-waiting-requests", "insecure", "allowed-origins", "drain-seconds",
                                      "served-model-name"])
    def test_flags_of_a_server(self, command, flag):
        assert f"unknown setting --{flag}" in refused(*command, TINY, f"--{flag}", 1)


def test_bench_offline_has_no_keys_and_no_template():
    for flag in ("api-key-file", "chat-template"):
        assert f"unknown setting --{flag}" in refused("bench", "offline", TINY, f"--{flag}", "f")


def test_chat_heeds_every_flag_or_refuses_it():
    assert "name it with --url" in refused("chat", TINY, "--api-key-file", "f")
    for flag, value in (("dtype", "float32"), ("max-num-seqs", 4), ("chat-template", "f")):
        message = refused("chat", "--url", "http://127.0.0.1:1", f"--{flag}", value)
        assert f"--{flag} is for a model that is served here" in message


@pytest.mark.parametrize("flags, says", [
    (["--coordinator", "tcp://127.0.0.1:99999"], "with a port from 1 to 65535"),
    (["--name", "a b"], "cannot be a node's name"),
    (["--worker", "/nonexistent"], "--worker /nonexistent is no program"),
    (["--run-folder", "/proc/foo"], "--run-folder"),
    (["--coordinator-key", "a.key"], "a.key has a secret key"),
    (["--run-folder", "keys"], "is removed when the agent ends"),
], ids=lambda value: None)
def test_what_an_agent_is_told_wrong_is_said_at_its_start(tmp_path, flags, says):
    keys = tmp_path / "keys"
    with Skein("keys", "--out", keys, "a") as made:
        assert made.wait(REFUSED_S) == 0, made.err
    flags = [{"a.key": keys / "a.key", "keys": keys}.get(flag, flag) for flag in flags]
    assert says in refused("agent", "--coordinator", "tcp://127.0.0.1:7300", "--name", "a", "--key-file", keys / "a.key", *flags)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a:1", "-a", "coordinator"])
def test_names_that_no_node_can_have(tmp_path, name):
    refused("keys", "--out", tmp_path / "keys", "--", name)


@pytest.mark.parametrize("flags", [["--objective", "fast"], ["--bogus"]], ids=str)
def test_nothing_is_suggested_that_is_far_off(flags):
    assert "did you mean" not in refused("plan", TINY, *flags)


def test_a_plan_is_checked_for_its_models(tmp_path):
    cluster, plan = tmp_path / "cluster.yaml", tmp_path / "plan.json"
    cluster.write_text("kinds:\n  - {name: a core, type: cpu, read_gb_per_s: 10, tflops: 0.05}\nnodes:\n"
                       "  - {name: here, cores: 2, memory_gib: 2, devices: [{kind: a core, count: 2}]}\n")
    with Skein("plan", TINY, "--cluster", cluster, "--format", "json") as made:
        assert made.wait(REFUSED_S) == 0, made.err
        plan.write_text(made.out)
    for model in ([], [TINY]):
        with Skein("plan", *model, "--cluster", cluster, "--check", plan) as checked:
            assert checked.wait(REFUSED_S) == 0 and "holds for the cluster" in checked.out, checked.err
    assert f"no replica of {ONE_FILE.name}" in refused("plan", ONE_FILE, "--cluster", cluster, "--check", plan)
    for flags in (["--previous", plan], ["--format", "json"], ["--nodes", "here"], ["--tensor-parallel-size", 2], ["--port", 1]):
        message = refused("plan", TINY, "--cluster", cluster, "--check", plan, *flags)
        assert f"--check only compares a plan with the cluster, which {flags[0]} does not change" in message


@pytest.mark.parametrize("flags", [["--request-rate", 5], ["--previous", "plan.json"], ["--format", "svg"]], ids=str)
def test_a_plan_without_a_cluster_heeds_no_flags_of_the_planner(flags):
    assert f"{flags[0]} needs a described cluster" in refused("plan", TINY, *flags)
