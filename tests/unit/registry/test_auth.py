from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pybuild.events import TransferOutcome
from pybuild.image.descriptor import Descriptor
from pybuild.image.digest import digest_of
from pybuild.image.media_type import OCI_LAYER_GZIP
from pybuild.image.reference import Reference, parse_reference
from pybuild.registry.client import Client
from pybuild.registry.credentials import Credentials
from pybuild.registry.errors import PullDenied, PushDenied, Unauthorized
from pybuild.registry.options import RegistryOptions
from tests.support.fake_registry import FakeRegistry
from tests.unit.registry.conftest import QUICK, FixedKeychain, MakeClient

ME = Credentials("me", "s3cret", origin="/kaniko/.docker/config.json")
CONTENT = os.urandom(1000)
BLOB = Descriptor(OCI_LAYER_GZIP, digest_of(CONTENT), len(CONTENT))


def ref_to(registry: FakeRegistry, rest: str = "app:1") -> Reference:
    return parse_reference(f"{registry.host}/{rest}")


def push(client: Client, ref: Reference, *mount_from: Reference) -> TransferOutcome:
    return client.push_blob(ref, BLOB, lambda: iter([CONTENT]), mount_from=mount_from)


@pytest.fixture(params=["basic", "bearer"])
def guarded(request: pytest.FixtureRequest, registry: FakeRegistry) -> FakeRegistry:
    registry.users = {"me": "s3cret"}
    registry.bearer = request.param == "bearer"
    registry.bearer_anonymous = False
    return registry


def test_who_has_the_password_may_push_and_pull(
    guarded: FakeRegistry, make_client: MakeClient
) -> None:
    client = make_client({"": ME})
    assert push(client, ref_to(guarded)) is TransferOutcome.DONE
    assert client.blob(ref_to(guarded), BLOB) == CONTENT


def test_the_first_request_is_authorized_already_where_the_scheme_was_probed(
    guarded: FakeRegistry, make_client: MakeClient
) -> None:
    push(make_client({"": ME}), ref_to(guarded))
    assert [entry.method for entry in guarded.requests if entry.path.startswith("/v2/app")] == [
        "HEAD",
        "POST",
        "PUT",
    ]


def test_nothing_known_names_what_was_tried(guarded: FakeRegistry, make_client: MakeClient) -> None:
    with pytest.raises(Unauthorized) as caught:
        make_client().check_push(ref_to(guarded))
    assert "no credentials were sent, looked into: the test's own list" in caught.value.message
    assert guarded.host in caught.value.hint


def test_a_wrong_password_names_where_it_came_from(
    guarded: FakeRegistry, make_client: MakeClient
) -> None:
    wrong = Credentials("me", "wr0ng", origin="/kaniko/.docker/config.json")
    with pytest.raises(Unauthorized) as caught:
        make_client({"": wrong}).check_push(ref_to(guarded))
    assert "the credentials are from /kaniko/.docker/config.json" in caught.value.message
    assert "wr0ng" not in caught.value.message + caught.value.hint
    assert len(guarded.requests) <= 4  # a locked account is a worse problem


@pytest.fixture
def bearer(registry: FakeRegistry) -> FakeRegistry:
    registry.users = {"me": "s3cret"}
    registry.bearer = True
    return registry


def test_a_token_is_fetched_once_for_all_threads(
    bearer: FakeRegistry, make_client: MakeClient
) -> None:
    bearer.add_blob("app", CONTENT)
    client = make_client({"": ME})
    bearer.seconds = 0.01
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: client.blob(ref_to(bearer), BLOB), range(12)))
    assert set(found) == {CONTENT}
    assert bearer.count("GET", "/token") == 1


def test_a_token_for_pushes_serves_pulls(bearer: FakeRegistry, make_client: MakeClient) -> None:
    client = make_client({"": ME})
    push(client, ref_to(bearer))
    client.blob(ref_to(bearer), BLOB)
    assert bearer.count("GET", "/token") == 1


def test_a_token_that_expired_is_replaced(bearer: FakeRegistry, make_client: MakeClient) -> None:
    client = make_client({"": ME})
    push(client, ref_to(bearer))
    bearer.expire_tokens()
    assert client.blob(ref_to(bearer), BLOB) == CONTENT
    assert bearer.count("GET", "/token") == 2


def test_a_token_about_to_expire_is_not_begun_with(
    bearer: FakeRegistry, make_client: MakeClient
) -> None:
    bearer.token_seconds = 1
    client = make_client({"": ME})
    push(client, ref_to(bearer))
    time.sleep(0.8)
    bearer.forget_requests()
    client.blob(ref_to(bearer), BLOB)
    assert [entry.method for entry in bearer.requests] == ["GET", "GET"]  # token, blob


def test_without_credentials_an_anonymous_token_is_asked_for(
    bearer: FakeRegistry, make_client: MakeClient
) -> None:
    bearer.add_blob("app", CONTENT)
    assert make_client().blob(ref_to(bearer), BLOB) == CONTENT
    token = next(entry for entry in bearer.requests if entry.path == "/token")
    assert token.authorization == ""


def test_an_identity_token_is_posted(bearer: FakeRegistry, make_client: MakeClient) -> None:
    bearer.refresh_tokens = {"refresh"}
    known = Credentials("0000", "", identity_token="refresh")
    assert push(make_client({"": known}), ref_to(bearer)) is TransferOutcome.DONE
    assert bearer.count("POST", "/token") == 1
    assert not any("refresh" in line for line in bearer.log)


def test_a_registry_token_is_sent_as_it_is(bearer: FakeRegistry, make_client: MakeClient) -> None:
    token = bearer.new_token(frozenset({"app:pull", "app:push"}))
    client = make_client({"": Credentials(registry_token=token)})
    assert push(client, ref_to(bearer)) is TransferOutcome.DONE
    assert bearer.count("GET", "/token") == 0


@pytest.mark.parametrize(("action", "error"), [("push", PushDenied), ("pull", PullDenied)])
def test_a_token_without_the_right_is_told_from_a_wrong_password(
    bearer: FakeRegistry, make_client: MakeClient, action: str, error: type[Exception]
) -> None:
    bearer.denied_scopes = {"app"}
    client = make_client({"": ME})
    with pytest.raises(error) as caught:
        if action == "push":
            client.check_push(ref_to(bearer))
        else:
            client.manifest(ref_to(bearer))
    assert f"{action}" in caught.value.hint  # type: ignore[attr-defined]
    assert "s3cret" not in str(caught.value)


def test_a_mount_takes_one_token_for_both_repositories(
    bearer: FakeRegistry, make_client: MakeClient
) -> None:
    bearer.add_blob("base", CONTENT)
    client = make_client({"": ME})
    outcome = push(client, ref_to(bearer), ref_to(bearer, "base:1"))
    assert outcome is TransferOutcome.MOUNTED
    tokens = [entry.target for entry in bearer.requests if entry.path == "/token"]
    assert sum(target.count("scope=") == 2 for target in tokens) == 1


def test_a_mount_is_not_tried_where_two_credentials_would_be_needed(
    bearer: FakeRegistry, make_client: MakeClient
) -> None:
    bearer.users["other"] = "x"
    bearer.add_blob("base", CONTENT)
    client = make_client({"base": Credentials("other", "x"), "": ME})
    outcome = push(client, ref_to(bearer), ref_to(bearer, "base:1"))
    assert outcome is TransferOutcome.DONE
    assert bearer.count("POST", "mount=") == 0


def test_a_mount_whose_source_may_not_be_read_becomes_an_upload(
    bearer: FakeRegistry, make_client: MakeClient
) -> None:
    bearer.add_blob("base", CONTENT)
    bearer.denied_scopes = {"base"}
    client = make_client({"": ME})
    assert push(client, ref_to(bearer), ref_to(bearer, "base:1")) is TransferOutcome.DONE


def test_a_token_server_that_stumbles_is_asked_again(
    bearer: FakeRegistry, make_client: MakeClient
) -> None:
    bearer.fail("/token", 503, times=2)
    assert push(make_client({"": ME}), ref_to(bearer)) is TransferOutcome.DONE


def test_credentials_are_by_repository(registry: FakeRegistry, make_client: MakeClient) -> None:
    registry.users = {"one": "1", "two": "2"}
    client = make_client({"a": Credentials("one", "1"), "b": Credentials("two", "2")})
    for name in ("a", "b"):
        client.check_push(ref_to(registry, f"{name}:1"))
    sent = {
        entry.path.split("/")[2]: entry.authorization
        for entry in registry.requests
        if entry.method == "POST"
    }
    assert len(set(sent.values())) == 2


class RotatingKeychain(FixedKeychain):
    """Has another password once it is told that the first one was refused."""

    def __init__(self, first: Credentials, second: Credentials) -> None:
        super().__init__({"": first})
        self._second = second
        self.asked = 0

    def renew(self, registry: str, repository: str, refused: Credentials) -> bool:
        self.asked += 1
        self._known = {"": self._second}
        return refused != self._second


@pytest.mark.parametrize("good", [True, False], ids=["renewed", "wrong-all-the-same"])
def test_credentials_that_ended_before_their_time_are_renewed(
    guarded: FakeRegistry, good: bool
) -> None:
    ended = Credentials("me", "ended", origin="a helper")
    keychain = RotatingKeychain(
        ended, ME if good else Credentials("me", "wr0ng", origin="a helper")
    )
    with Client(RegistryOptions(retry=QUICK), keychain, lambda event: None) as client:
        if good:
            assert push(client, ref_to(guarded)) is TransferOutcome.DONE
            assert keychain.asked == 1
        else:
            with pytest.raises(Unauthorized, match="the credentials are from a helper"):
                push(client, ref_to(guarded))
