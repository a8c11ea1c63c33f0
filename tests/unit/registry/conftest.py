from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from pybuild.events import Event
from pybuild.registry.client import Client
from pybuild.registry.credentials import ANONYMOUS, Credentials
from pybuild.registry.options import RegistryOptions
from pybuild.registry.retry import RetryPolicy
from tests.support.fake_registry import FakeRegistry

QUICK = RetryPolicy(tries=4, first_wait_seconds=0.001, longest_wait_seconds=0.01, total_seconds=3)


class FixedKeychain:
    """Credentials by repository, or for all under ""."""

    def __init__(self, known: Mapping[str, Credentials]) -> None:
        self._known = known

    def credentials(self, registry: str, repository: str) -> Credentials:
        return self._known.get(repository, self._known.get("", ANONYMOUS))

    def renew(self, registry: str, repository: str, refused: Credentials) -> bool:
        return False

    def close(self) -> None:
        pass

    def tried(self, registry: str) -> tuple[str, ...]:
        return ("the test's own list",)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def other_registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def events() -> list[Event]:
    return []


MakeClient = Callable[..., Client]


@pytest.fixture
def make_client(events: list[Event]) -> Iterator[MakeClient]:
    made: list[Client] = []

    def make(known: Mapping[str, Credentials] | None = None, **options: object) -> Client:
        options = {"retry": QUICK, "timeout_seconds": 5.0, **options}
        client = Client(
            RegistryOptions(**options),  # type: ignore[arg-type]
            FixedKeychain(known or {}),
            events.append,
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    return make_client()
