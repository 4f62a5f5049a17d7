# SPDX-License-Identifier: GPL-2.0-or-later
"""Every operation over the wire: replies, and the error for each wrong request."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.support import OK, Peer, introduced
from xenograft.abi.io import xs_wire
from xenograft.store import tree
from xenograft.store.client import StoreClient
from xenograft.store.operations import OPERATIONS
from xenograft.store.quota import Quota
from xenograft.store.service import Xenstore


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def dom0(store: Xenstore) -> Peer:
    return Peer(store)


@pytest.fixture
def guest(store: Xenstore) -> Peer:
    return introduced(store, 1)


def test_every_declared_request_is_in_the_table() -> None:
    not_requests = {xs_wire.XS_WATCH_EVENT, xs_wire.XS_ERROR, xs_wire.XS_INVALID}
    assert set(OPERATIONS) == set(xs_wire.XS_NAMES) - not_requests


@pytest.mark.parametrize("number", [15, 16, 20, 23, 0xFFFF, 0xFFFFFFFF])
def test_unknown_requests(dom0: Peer, number: int) -> None:
    assert dom0.send(number) == "ENOSYS"


# -- reading and writing --------------------------------------------------------------------
def test_a_fresh_store_holds_the_special_nodes(dom0: Peer) -> None:
    assert dom0.ls("/") == ["@introduceDomain", "@releaseDomain"]
    assert dom0.get_perms("@releaseDomain") == ["n0"]
    assert dom0.get_perms("/@releaseDomain") == ["n0"]


def test_write_makes_the_way_there(dom0: Peer) -> None:
    assert dom0.write("/a/b/c", b"v\0\xff") == OK
    assert dom0.read("/a/b/c") == b"v\0\xff"
    assert dom0.read("/a") == b""
    assert dom0.ls("/a") == ["b"]
    assert dom0.write("/a", b"") == OK
    assert dom0.ls("/a") == ["b"]
    assert dom0.write("/", b"root") == OK
    assert dom0.read("/") == b"root"


def test_directory_is_in_order_of_name(dom0: Peer) -> None:
    for name in ("c", "a", "B", "a-", "10", "9"):
        dom0.write(f"/d/{name}")
    assert dom0.ls("/d") == ["10", "9", "B", "a", "a-", "c"]
    assert dom0.ls("/d/a") == []


def test_mkdir_leaves_what_is_there(dom0: Peer) -> None:
    dom0.write("/a", "value")
    assert dom0.mkdir("/a") == OK
    assert dom0.read("/a") == b"value"
    assert dom0.mkdir("/x/y/z") == OK
    assert dom0.read("/x/y") == b""


def test_rm(dom0: Peer) -> None:
    dom0.write("/a/b/c", "1")
    assert dom0.rm("/a/b") == OK
    assert dom0.read("/a/b/c") == "ENOENT"
    assert dom0.ls("/a") == []
    assert dom0.rm("/a/b") == OK  # gone already, but its parent is there
    assert dom0.rm("/a/b/c") == "ENOENT"
    assert dom0.rm("/") == "EINVAL"


def test_relative_paths_are_of_ones_own_domain(dom0: Peer, guest: Peer) -> None:
    assert guest.write("data/x", "1") == OK
    assert dom0.read("/local/domain/1/data/x") == b"1"
    assert dom0.write("relpath", "2") == OK
    assert dom0.read("/local/domain/0/relpath") == b"2"


@pytest.mark.parametrize(
    "operation",
    [
        xs_wire.XS_READ,
        xs_wire.XS_DIRECTORY,
        xs_wire.XS_GET_PERMS,
        xs_wire.XS_MKDIR,
        xs_wire.XS_RM,
        xs_wire.XS_GET_DOMAIN_PATH,
        xs_wire.XS_IS_DOMAIN_INTRODUCED,
        xs_wire.XS_RELEASE,
        xs_wire.XS_RESUME,
    ],
)
@pytest.mark.parametrize("payload", [b"", b"/a", b"/a\0b", b"/a\0b\0", b"\0", b"/a\0\0"])
def test_requests_with_one_string_want_exactly_that(
    dom0: Peer, operation: int, payload: bytes
) -> None:
    assert dom0.send(operation, payload) == "EINVAL"


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        (xs_wire.XS_WRITE, b"/a"),
        (xs_wire.XS_WRITE, b""),
        (xs_wire.XS_WRITE, b"/bad path\x001"),
        (xs_wire.XS_SET_PERMS, b"/\0"),
        (xs_wire.XS_SET_PERMS, b"/\0z0\0"),
        (xs_wire.XS_SET_PERMS, b"@other\0n0\0"),
        (xs_wire.XS_WATCH, b"/\0"),
        (xs_wire.XS_WATCH, b"/\0t\0x\0"),
        (xs_wire.XS_WATCH, b"/\0t\x001\0y\0"),
        (xs_wire.XS_WATCH, b"//\0t\0"),
        (xs_wire.XS_UNWATCH, b"/\0"),
        (xs_wire.XS_INTRODUCE, b"1\x002\0"),
        (xs_wire.XS_INTRODUCE, b"1\x002\x000\0"),
        (xs_wire.XS_INTRODUCE, b"x\x002\x003\0"),
        (xs_wire.XS_INTRODUCE, b"0\x002\x003\0"),
        (xs_wire.XS_INTRODUCE, b"32752\x002\x003\0"),
        (xs_wire.XS_SET_TARGET, b"1\0"),
        (xs_wire.XS_DIRECTORY_PART, b"/\0"),
        (xs_wire.XS_DIRECTORY_PART, b"/\0-1\0"),
        (xs_wire.XS_TRANSACTION_END, b"X\0"),
        (xs_wire.XS_CONTROL, b"frob\0"),
        (xs_wire.XS_CONTROL, b""),
    ],
)
def test_malformed_payloads(dom0: Peer, operation: int, payload: bytes) -> None:
    assert dom0.send(operation, payload) == "EINVAL"


def test_replies_that_do_not_fit(dom0: Peer) -> None:
    for i in range(500):
        dom0.write(f"/d/a-rather-long-name-{i}")
    assert dom0.send(xs_wire.XS_DIRECTORY, b"/d\0") == "E2BIG"
    assert dom0.send(xs_wire.XS_READ, b"/" + b"a" * 5000) == "E2BIG"


# -- directory_part -------------------------------------------------------------------------
def parts_of(peer: Peer, path: str) -> tuple[list[str], set[bytes]]:
    listing, generations = b"", set()
    while True:
        payload = path.encode() + b"\0%d\0" % len(listing)
        reply = peer.send(xs_wire.XS_DIRECTORY_PART, payload)
        assert isinstance(reply, bytes)
        assert len(reply) <= 4096
        generation, _, part = reply.partition(b"\0")
        generations.add(generation)
        assert part.endswith(b"\0")
        if part == b"\0" or part.endswith(b"\0\0"):
            return (listing + part[:-1]).decode().split("\0")[:-1], generations
        listing += part


@pytest.mark.parametrize("count", [0, 1, 3, 1000, 10_000])
def test_directories_of_any_size_come_in_parts(dom0: Peer, count: int) -> None:
    dom0.mkdir("/d")
    names = [f"entry-{i}" for i in range(count)]
    for name in names:
        dom0.write(f"/d/{name}")
    found, generations = parts_of(dom0, "/d")
    assert found == sorted(names)
    assert len(generations) == 1


def test_generations_tell_changes_of_the_list(dom0: Peer) -> None:
    dom0.mkdir("/d/a")
    seen = [parts_of(dom0, "/d")[1]]
    for change in (
        lambda: dom0.write("/d/b"),
        lambda: dom0.rm("/d/b"),
        lambda: dom0.write("/d", "value"),
        lambda: dom0.set_perms("/d", "r0"),
    ):
        change()
        seen.append(parts_of(dom0, "/d")[1])
    assert len(set.union(*seen)) == len(seen)
    dom0.write("/d/a/below", "1")
    assert parts_of(dom0, "/d")[1] == seen[-1]


def test_an_offset_behind_the_list(dom0: Peer) -> None:
    dom0.write("/d/a")
    reply = dom0.send(xs_wire.XS_DIRECTORY_PART, b"/d\x0099999999\0")
    assert isinstance(reply, bytes)
    assert reply.partition(b"\0")[2] == b"\0"


# -- permissions ------------------------------------------------------------------------------
def test_nodes_inherit_and_belong_to_their_creator(dom0: Peer, guest: Peer) -> None:
    dom0.write("/shared", "")
    dom0.set_perms("/shared", "n0", "b1", "r2")
    dom0.write("/shared/by0/x")
    assert dom0.get_perms("/shared/by0/x") == ["n0", "b1", "r2"]
    assert guest.write("/shared/by1/x", "v") == OK
    assert dom0.get_perms("/shared/by1") == ["n1", "b1", "r2"]
    assert dom0.get_perms("/shared/by1/x") == ["n1", "b1", "r2"]


def test_a_guest_sees_and_changes_its_own(dom0: Peer, guest: Peer) -> None:
    dom0.write("/secret/x", "s")
    dom0.write("/public", "p")
    dom0.set_perms("/public", "r0")
    assert guest.read("/public") == b"p"
    assert guest.write("/public", "q") == "EACCES"
    assert guest.rm("/public") == "EACCES"
    assert guest.read("/secret/x") == "EACCES"
    assert guest.ls("/secret") == "EACCES"
    assert guest.get_perms("/secret") == "EACCES"
    assert guest.write("/secret/y", "") == "EACCES"
    assert guest.mkdir("/new") == "EACCES"
    assert guest.ls("/") == "EACCES"


def test_errors_do_not_tell_what_is_there(dom0: Peer, guest: Peer) -> None:
    dom0.write("/secret/there")
    assert guest.read("/secret/there") == guest.read("/secret/nothing") == "EACCES"
    assert guest.read("nothing") == "ENOENT"
    dom0.write("/public")
    dom0.set_perms("/public", "r0")
    assert guest.read("/public/nothing") == "ENOENT"
    assert guest.write("/public/nothing", "") == "EACCES"


def test_a_node_may_be_open_below_a_closed_one(dom0: Peer, guest: Peer) -> None:
    dom0.write("/closed/open", "v")
    dom0.set_perms("/closed/open", "n0", "b1")
    assert guest.read("/closed/open") == b"v"
    assert guest.rm("/closed/open") == OK
    assert dom0.ls("/closed") == []


def test_set_perms(dom0: Peer, guest: Peer) -> None:
    guest.write("mine", "")
    assert guest.set_perms("mine", "n1", "r0") == OK
    assert guest.get_perms("mine") == ["n1", "r0"]
    assert guest.set_perms("mine", "n0") == "EPERM"
    dom0.write("/open", "")
    dom0.set_perms("/open", "b0")
    assert guest.set_perms("/open", "b0") == "EACCES"  # may write, but doesn't own it
    assert guest.set_perms("nothing", "n1") == "ENOENT"
    assert dom0.set_perms("/local/domain/1/mine", "n7") == OK
    assert guest.read("mine") == "EACCES"


def test_special_nodes_have_permissions(dom0: Peer, guest: Peer) -> None:
    assert guest.set_perms("@releaseDomain", "n0", "r1") == "EACCES"
    assert dom0.set_perms("@releaseDomain", "n0", "r1") == OK
    assert guest.get_perms("@releaseDomain") == ["n0", "r1"]


# -- domains ----------------------------------------------------------------------------------
def test_domains_come_and_go(store: Xenstore, dom0: Peer) -> None:
    def introduced_as(domid: int) -> bytes | str:
        return dom0.send(xs_wire.XS_IS_DOMAIN_INTRODUCED, b"%d\0" % domid)

    assert (introduced_as(0), introduced_as(5), introduced_as(0x7FF0)) == (b"T\0", b"F\0", b"T\0")
    assert dom0.send(xs_wire.XS_INTRODUCE, b"5\x004660\x003\0") == OK
    assert introduced_as(5) == b"T\0"
    assert (store.domains[5].gfn, store.domains[5].port) == (4660, 3)
    assert dom0.send(xs_wire.XS_INTRODUCE, b"5\x00-1\x004\0") == OK
    assert (store.domains[5].gfn, store.domains[5].port) == ((1 << 64) - 1, 4)
    assert dom0.send(xs_wire.XS_RELEASE, b"5\0") == OK
    assert introduced_as(5) == b"F\0"
    assert dom0.send(xs_wire.XS_RELEASE, b"5\0") == "ENOENT"
    assert dom0.send(xs_wire.XS_RESUME, b"5\0") == "ENOENT"


def test_get_domain_path(dom0: Peer, guest: Peer) -> None:
    assert guest.send(xs_wire.XS_GET_DOMAIN_PATH, b"007\0") == b"/local/domain/7\0"


def test_nodes_of_a_released_domain_go_with_it(store: Xenstore, dom0: Peer, guest: Peer) -> None:
    guest.write("device/vif/0/state", "1")
    dom0.write("/back/1/0/state", "2")
    dom0.set_perms("/back/1/0", "n0", "r1", "b2")
    dom0.write("/vm/x/deep", "")
    dom0.set_perms("/vm/x", "n1")
    store.release(1)
    assert dom0.ls("/local/domain") == []
    assert dom0.get_perms("/back/1/0") == ["n0", "b2"]
    assert dom0.ls("/vm") == []
    assert dom0.send(xs_wire.XS_CONTROL, b"check\0") == OK


def test_a_released_domain_is_not_answered(store: Xenstore, guest: Peer) -> None:
    store.release(1)
    assert guest.connection.closed
    guest.connection.send_reply(b"late")
    assert not guest.connection.has_output


def test_privileged_operations(guest: Peer) -> None:
    for operation in (
        xs_wire.XS_INTRODUCE,
        xs_wire.XS_RELEASE,
        xs_wire.XS_RESUME,
        xs_wire.XS_SET_TARGET,
        xs_wire.XS_IS_DOMAIN_INTRODUCED,
        xs_wire.XS_CONTROL,
    ):
        assert guest.send(operation, b"1\x001\x001\0") == "EACCES"


def test_a_device_model_acts_for_its_target(store: Xenstore, dom0: Peer, guest: Peer) -> None:
    stub = introduced(store, 2)
    guest.write("private", "v")
    assert stub.read("/local/domain/1/private") == "EACCES"
    assert dom0.send(xs_wire.XS_SET_TARGET, b"2\x009\0") == "ENOENT"
    assert dom0.send(xs_wire.XS_SET_TARGET, b"2\x001\0") == OK
    assert stub.read("/local/domain/1/private") == b"v"
    assert stub.set_perms("/local/domain/1/private", "n1", "r2") == OK
    assert stub.write("own", "1") == OK
    store.release(1)
    dom0.write("/local/domain/1/private", "of another")
    dom0.set_perms("/local/domain/1/private", "n1")
    assert stub.read("/local/domain/1/private") == "EACCES"


# -- quotas -----------------------------------------------------------------------------------
def test_quota_of_nodes(store: Xenstore, dom0: Peer, guest: Peer) -> None:
    store.quota.nodes = 10
    assert [guest.write(f"n{i}", "") for i in range(9)] == [OK] * 9  # its home is the tenth
    assert guest.write("one-more", "") == "ENOSPC"
    assert guest.mkdir("one/more") == "ENOSPC"
    assert guest.write("n3", "again") == OK
    assert guest.rm("n1") == OK
    assert guest.write("a/b", "") == "ENOSPC"
    assert guest.write("a", "") == OK
    # What domain 0 makes for it counts, but isn't refused.
    assert dom0.write("/local/domain/1/by0/x/y", "") == OK
    assert store.state.owned[1] == 13


def test_counts_follow_owners(store: Xenstore, dom0: Peer, guest: Peer) -> None:
    guest.write("a/b/c", "")
    assert store.state.owned[1] == 4
    dom0.set_perms("/local/domain/1/a/b", "n9")
    assert (store.state.owned[1], store.state.owned[9]) == (3, 1)
    guest.rm("a")
    assert store.state.owned[1] == 1
    assert 9 not in store.state.owned


def test_other_quotas(store: Xenstore, dom0: Peer, guest: Peer) -> None:
    # A header of 24 bytes and 8 for each permission: a node of 2048 in all is too large.
    assert guest.write("long", b"x" * (2047 - 24 - 8)) == OK
    assert guest.write("long", b"x" * (2048 - 24 - 8)) == "ENOSPC"
    assert guest.write("longer", b"x" * (2048 - 24 - 8)) == "ENOSPC"
    assert guest.set_perms("long", "n1", "r2") == "ENOSPC"
    assert guest.write("long", b"") == OK
    assert dom0.write("/long", b"x" * 4000) == OK
    # So do the names of children, with a NUL each.
    made = [guest.write(f"many/{i:09}", b"") for i in range(204)]
    assert made == [OK] * 201 + ["ENOSPC"] * 3
    assert guest.write(f"many/{7:09}", b"x") == OK
    assert guest.mkdir("many/x") == OK
    words = ["n1", *(f"r{i}" for i in range(2, 7))]
    assert guest.set_perms("long", *words[:5]) == OK
    assert guest.set_perms("long", *words) == "ENOSPC"
    assert [guest.watch(f"w{i}") for i in range(130)] == [OK] * 129 + ["E2BIG"]
    assert [isinstance(guest.send(xs_wire.XS_TRANSACTION_START), bytes) for _ in range(12)] == [
        True
    ] * 11 + [False]
    assert guest.send(xs_wire.XS_TRANSACTION_START) == "ENOSPC"


def test_quota_of_memory() -> None:
    store = Xenstore(quota=Quota(memory=20_000, watches=10_000))
    guest = introduced(store, 1)
    results = [guest.watch("w", "t" * 1000 + str(i)) for i in range(30)]
    assert results.count("ENOMEM") > 5
    assert guest.connection.memory <= 20_000
    kept = [i for i, result in enumerate(results) if result == OK]
    for i in kept:
        assert guest.unwatch("w", "t" * 1000 + str(i)) == OK
    assert guest.connection.memory == 0
    tx = guest.start()
    answers = [guest.write("x", b"v" * 1000, tx) for _ in range(30)]
    assert "ENOMEM" in answers
    guest.end(tx, commit=False)
    assert guest.connection.memory == 0


def test_the_control_domain_has_no_quotas(store: Xenstore, dom0: Peer) -> None:
    store.quota.nodes = store.quota.watches = store.quota.transactions = 1
    assert [dom0.write(f"/n{i}") for i in range(5)] == [OK] * 5
    assert [dom0.watch(f"/n{i}") for i in range(5)] == [OK] * 5
    assert [dom0.start() for _ in range(5)] == [1, 2, 3, 4, 5]


# -- control ----------------------------------------------------------------------------------
def test_control(store: Xenstore, dom0: Peer) -> None:
    def control(*words: str) -> str:
        reply = dom0.send(xs_wire.XS_CONTROL, "\0".join((*words, "")).encode())
        return reply if isinstance(reply, str) else reply.rstrip(b"\0").decode()

    assert control("check") == "OK"
    assert "check" in control("help")
    assert "nodes" in control("quota")
    assert control("quota", "set", "node-size", "7") == "OK"
    assert store.quota.node_size == 7
    assert control("quota", "set", "nonsense", "7") == "EINVAL"
    assert control("quota", "set", "nodes", "-7") == "EINVAL"
    assert "Domain 0" in control("quota", "0")
    dom0.watch("/x", "tok")
    assert "watch D0: /x tok" in control("watches")
    assert "watches: 1" in control("memreport")
    for number in range(40):
        dom0.watch(f"/{number}", "\xff" * 200)
    listed = control("watches")
    assert len(listed) < 4096
    assert listed.endswith("more") or listed.endswith("more\n")
    assert control("memreport", "/etc/passwd") == "EINVAL"
    assert control("log", "maybe") == "EINVAL"


def test_control_log() -> None:
    lines: list[str] = []
    store = Xenstore(log=lines.append)
    dom0 = Peer(store)
    dom0.send(xs_wire.XS_CONTROL, b"print\0hello\0")
    dom0.send(xs_wire.XS_CONTROL, b"log\0on\0")
    dom0.write("/a", "1")
    dom0.read("/b")
    dom0.send(xs_wire.XS_CONTROL, b"log\0off\0")
    dom0.read("/b")
    assert lines[0] == "hello"
    assert [line.split(":")[-1].strip() for line in lines[1:]] == ["OK", "OK", "ENOENT"]


def test_check_finds_wrong_counts(store: Xenstore, dom0: Peer) -> None:
    store.state = store.state._replace(owned={0: 99})
    assert dom0.send(xs_wire.XS_CONTROL, b"check\0") == b"node counts differ\0"


# -- watching requests --------------------------------------------------------------------------
def test_requests_can_be_watched(store: Xenstore, dom0: Peer) -> None:
    seen: list[tuple[object, ...]] = []
    store.on_request = lambda *what: seen.append(what)
    dom0.write("/a", "1")
    dom0.read("/b")
    serial = dom0.connection.serial
    assert seen == [
        (0, xs_wire.XS_WRITE, 0, b"/a\x001", xs_wire.XS_WRITE, OK, serial),
        (0, xs_wire.XS_READ, 0, b"/b\0", xs_wire.XS_ERROR, b"ENOENT\0", serial),
    ]


def test_requests_from_within_the_process_can_be_watched(store: Xenstore) -> None:
    seen: list[tuple[object, ...]] = []
    client = StoreClient(store)
    store.on_request = lambda *what: seen.append(what)
    client.write("/a", "1")
    assert client.get("/b") is None
    serial = client.connection.serial
    assert seen == [
        (0, xs_wire.XS_WRITE, 0, b"/a\x001", xs_wire.XS_WRITE, OK, serial),
        (0, xs_wire.XS_READ, 0, b"/b\0", xs_wire.XS_ERROR, b"ENOENT\0", serial),
    ]


# -- anything at all ----------------------------------------------------------------------------
WORDS = st.sampled_from(
    [b"/", b"/a", b"/a/b", b"x", b"@releaseDomain", b"n1", b"b0", b"T", b"F", b"1", b"2", b"-5"]
)
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.lists(WORDS, max_size=4).map(lambda words: b"\0".join([*words, b""])),
)


@settings(max_examples=200, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(0, 24), PAYLOADS, st.integers(0, 3), st.booleans()), max_size=40
    )
)
def test_any_request_has_one_reply(requests: list[tuple[int, bytes, int, bool]]) -> None:
    store = Xenstore()
    dom0, guest = Peer(store), introduced(store, 1)
    for operation, payload, tx, privileged in requests:
        peer = dom0 if privileged or guest.connection.closed else guest
        peer.send(operation, payload, tx)
    assert dom0.send(xs_wire.XS_CONTROL, b"check\0") == OK
    if not guest.connection.closed:
        assert guest.connection.memory >= 0


def test_a_tree_a_thousand_levels_deep(store: Xenstore, dom0: Peer, guest: Peer) -> None:
    deep = "/local/domain/1/" + "/".join(["d"] * 1000)
    assert dom0.write(deep, "bottom") == OK
    assert guest.read(deep) == b"bottom"
    assert sum(1 for _ in tree.walk(store.state.root)) > 1000
    store.release(1)
    assert dom0.ls("/local/domain") == []


def test_guests_may_not_go_that_deep(store: Xenstore, guest: Peer) -> None:
    store.quota.depth = 10
    assert guest.write("a/b/c/d/e/f/g", "") == OK
    assert guest.write("a/b/c/d/e/f/g/h", "") == "ENOSPC"
    assert guest.mkdir("x/b/c/d/e/f/g/h") == "ENOSPC"
