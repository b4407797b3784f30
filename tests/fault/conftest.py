import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from skein_server import make_long_model  # noqa: E402


@pytest.fixture(scope="session")
def long_model(tmp_path_factory):
    return make_long_model(tmp_path_factory.mktemp("long") / "model")
