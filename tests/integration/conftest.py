import pytest

from skein_server import BIN, FIXTURES, MODEL, Server, demo_model, make_long_model


def pytest_configure():
    if not (BIN / "skein").exists():
        pytest.exit(f"{BIN} holds no skein: build it with scripts/build, or set SKEIN_BIN", 4)


@pytest.fixture(scope="module")
def server():
    """A tiny model on one rank, in float32, as the oracles were recorded."""
    with Server(FIXTURES / MODEL, "--dtype", "float32") as running:
        yield running
        running.assert_idle()
        running.stop()


@pytest.fixture(scope="session")
def smollm2():
    path = demo_model()
    if path is None:
        pytest.skip("SKEIN_SMOLLM2 names no file; tests/run fetches it")
    return path


@pytest.fixture(scope="session")
def long_model(tmp_path_factory):
    return make_long_model(tmp_path_factory.mktemp("long") / "model")
