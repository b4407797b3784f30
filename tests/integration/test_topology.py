"""`skein topology`: this machine, cluster files, what contradicts them, and the probes."""

import json
import os
import pathlib
import re
import signal
import xml.etree.ElementTree

import pytest

from skein_server import READY_S, SANITIZED, Skein, wait_for

CLUSTERS = pathlib.Path(__file__).parents[2] / "configs" / "clusters"


# Open MPI's plugins leave memory behind when a probe ends, and are unloaded by then: no suppression can name them.
NO_LEAKS = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}


def run(*arguments, status=0, cwd=None, seconds=READY_S):
    with Skein("topology", *arguments, cwd=cwd, env=NO_LEAKS) as skein:
        assert skein.wait(seconds) == status, skein.err
        skein.assert_nothing_left()
        return skein.out, skein.err


def test_this_machine_is_a_cluster_file_that_it_agrees_with(tmp_path):
    out, err = run("--format", "yaml")
    assert re.search(r"^nodes:\n  - name: .+\n    cores: \d+$", out, re.MULTILINE), out
    file = tmp_path / "node.yaml"
    file.write_text(out)
    out, err = run("--config", file)
    assert "1 node" in out and str(file) not in out + err, "a difference between a machine and its own description"


def test_every_format_shows_the_same_cluster():
    file = CLUSTERS / "h200-pair.yaml"
    assert "16 x NVIDIA H200" in run("--config", file)[0]
    shown = json.loads(run("--config", file, "--format", "json")[0])
    assert [node["name"] for node in shown["cluster"]["nodes"]] == ["h200-1", "h200-2"]
    assert shown["findings"] == []
    picture = xml.etree.ElementTree.fromstring(run("--config", file, "--format", "svg")[0])
    assert picture.tag.endswith("svg")


def test_a_node_that_is_not_as_described_is_told_with_the_files_lines():
    file = CLUSTERS / "h200-pair.yaml"
    out, _ = run("--config", file, "--node", "h200-2")
    lines = [line for line in out.splitlines() if line.startswith(f"note: {file}: line ")]
    assert any("should be NVIDIA H200; found" in line or "says 8 devices" in line for line in lines), out
    assert any("there is no mlx5_0" in line for line in lines), out
    _, err = run("--config", file, "--node", "h200-2", "--format", "svg")
    assert "there is no mlx5_0" in err, "notes of a picture go to standard error"


def test_scripts_get_a_status_where_the_machine_contradicts_the_file(tmp_path):
    file = tmp_path / "node.yaml"
    file.write_text(run("--format", "yaml")[0])
    _, err = run("--config", file, "--strict")
    assert "not as" not in err
    file.write_text(re.sub(r"cores: (\d+)$", lambda found: f"cores: {int(found[1]) + 1}", file.read_text(), flags=re.MULTILINE))
    run("--config", file, status=0)
    for form in ("text", "json"):
        out, err = run("--config", file, "--strict", "--format", form, status=1)
        assert f"this machine is not as {file} says, as 1 note says: correct the file" in err
        assert f"{file}: line " in out, "it is shown all the same"
    _, err = run("--config", CLUSTERS / "h200-pair.yaml", "--strict", status=2)
    assert "to compare this machine with: name another with --node" in err


@pytest.mark.parametrize("arguments, says", [
    (["--config", CLUSTERS / "h200-pair.yaml", "--node", "h200-3"], 'has no node "h200-3"'),
    (["--strict"], "it needs --config"),
    (["--node", "h200-3"], "it needs --config"),
    (["--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
    (["--url", "http://127.0.0.1:1", "--measure"], "give it without --config and --measure"),
    (["--url", "http://127.0.0.1:1"], "127.0.0.1"),
    (["--measure", "--listen", "tcp://127.0.0.1:7300"], "listen needs key-file and allow-list"),
    (["--listen", "tcp://127.0.0.1:7300"], "give --measure and --listen, too"),
    (["--measure", "--nodes", "a"], "--nodes is of a coordinator"),
    (["--measure", "--listen", "tcp://127.0.0.1:7300", "--format", "svg"], "leave --node and --format out"),
    (["--output", "c.yaml"], "give --measure, too"),
    (["--measure", "--output", "/nonexistent/x.yaml"], "cannot write /nonexistent/x.yaml"),
    (["cluster.yaml"], "Files go behind --config"),
    (["--formt", "svg"], "did you mean --format?"),
], ids=lambda value: None)
def test_what_makes_no_sense_is_one_sentence(arguments, says):
    with Skein("topology", *arguments) as skein:
        assert skein.wait(READY_S) in (1, 2)
        assert says in skein.err and len(skein.err.splitlines()) == 1, skein.err


def test_a_broken_file_names_itself_the_line_and_the_remedy(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: NVIDIA H20}]}\n")
    _, err = run("--config", file, status=2)
    assert err.startswith(f"skein: {file}: line 2: the device kind \"NVIDIA H20\" is not known; did you mean")


@pytest.mark.skipif(SANITIZED, reason="timings of instrumented kernels say nothing, and take a minute and more")
def test_measuring_writes_a_calibration_of_this_machine(tmp_path):
    _, err = run("--measure", "--output", "mine.yaml", cwd=tmp_path, seconds=4 * READY_S)  # a minute, by itself
    assert "mine.yaml" in err
    calibration = (tmp_path / "mine.yaml").read_text()
    for figure in ("read_bytes_per_s", "flops"):
        assert float(re.search(rf"^ +{figure}: (\S+)$", calibration, re.MULTILINE)[1]) > 1e8, calibration
    tokens = re.search(r"product_tokens: \[(.*)\]", calibration)[1].split(",")
    formats = re.findall(r"^ +- format: (\S+)\n +inputs: (\S+)\n +flops: (\S+)$", calibration, re.MULTILINE)
    assert [name for name, _, _ in formats] == [
        name for name in ("BF16", "F32", "F16", "Q8_0", "Q4_0", "Q4_1") for _ in range(2)], calibration
    assert {inputs for _, inputs, _ in formats} == {"576", "2304"}, calibration
    assert all(float(flops) > 1e8 for _, _, flops in formats), calibration
    tables = re.findall(r"^ +(?:group_attention_heads|cached_attention_heads|(?:norm|gate|rope|cached|cached_product)_tokens): \[(.*)\]",
                        calibration, re.MULTILINE)
    assert len(tables) == 6 + 12, calibration
    rows = 13 * len(tokens) + sum(len(table.split(",")) for table in tables)
    assert len(re.findall(r"^ +- \[", calibration, re.MULTILINE)) == rows, calibration
    assert float(re.search(r"^ +logits_per_s: (\S+)$", calibration, re.MULTILINE)[1]) > 0, calibration
    assert len(re.findall(r"^ +waiting_gain:$", calibration, re.MULTILINE)) == (13 if os.cpu_count() > 1 else 0), calibration
    assert len(re.findall(r"^ +from_memory:$", calibration, re.MULTILINE)) == 1, calibration
    ranks = re.search(r"^ +ranks: (\d+)$", calibration, re.MULTILINE)
    assert ranks is None or ranks[1] == "2"  # None: a single core


def test_measuring_can_be_interrupted():
    with Skein("topology", "--measure") as skein:
        wait_for(lambda: skein.processes("rank"), "a probe")
        skein.process.send_signal(signal.SIGINT)
        assert skein.wait(READY_S) == 1
        assert "asked to end" in skein.err
        skein.assert_nothing_left()
