import pytest

from tests.api.client import Api, make_api


@pytest.fixture(scope="session")
def shared_api() -> Api:
    return make_api()


@pytest.fixture
def api(shared_api: Api) -> Api:
    return shared_api.as_new()
