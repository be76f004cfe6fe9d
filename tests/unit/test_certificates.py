"""Chains, keys and authorities on this machine: what is refused, what is issued, and when."""

import datetime as dt
import ipaddress
import ssl
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as some

from provision.certificates import authority, chain, served
from provision.certificates.chain import UnusableError
from provision.certificates.served import ServerCertificate, Sources
from provision.errors import UsageError
from tests.unit.pki import NOW, Pair, between, issued, pem_of, put, root

NAMES = ("llm.example", "10.0.0.5")
ROOT = root()
MIDDLE = between(ROOT)
LEAF = issued("lb", MIDDLE, *NAMES)


def given_files(folder: Path, *certificates: Pair, key: bytes = b"", **more: object) -> Sources:
    """Return the sources of a chain in files."""
    sources = Sources(
        host="lb-01",
        certificate=put(folder / "chain.pem", *(pair.pem for pair in certificates)),
        key=put(folder / "lb.key", key or certificates[0].key_pem),
        trust=put(folder / "root.pem", ROOT.pem),
        names=NAMES,
    )
    return replace(sources, **more)  # type: ignore[arg-type]


def said(sources: Sources) -> dict[str, str]:
    """Return the problems by key of a setting."""
    return dict(served.read(sources, NOW).problems)


def test_a_right_chain_with_its_key_is_taken(tmp_path: Path) -> None:
    found = served.read(given_files(tmp_path, LEAF, MIDDLE), NOW).certificate
    assert found is not None
    assert (found.chain, found.trust, found.key.reveal().encode()) == (LEAF.pem + MIDDLE.pem, ROOT.pem, LEAF.key_pem)
    assert (found.names, found.name, found.days, found.is_new) == (NAMES, "llm.example", 89, False)
    assert "[secret]" in repr(found)
    assert LEAF.key_pem.decode() not in repr(found)


def test_a_key_in_the_file_of_the_certificates_goes_nowhere_but_into_the_key(tmp_path: Path) -> None:
    sources = given_files(tmp_path, LEAF, MIDDLE)
    both = put(tmp_path / "both.pem", b"a comment\n", LEAF.key_pem, LEAF.pem, MIDDLE.pem)
    found = served.read(replace(sources, certificate=both, key=both), NOW).certificate
    assert found is not None
    assert found.chain == LEAF.pem + MIDDLE.pem
    assert b"PRIVATE KEY" not in found.chain + found.trust


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + LEAF.key_pem,
        LEAF.key_pem.replace(b"\n", b"\r\n"),
        LEAF.key_pem.replace(b"-----BEGIN", b"  -----BEGIN", 1),
        b"friendlyName: M\xfcller\n" + LEAF.key_pem + LEAF.pem,
    ],
    ids=["byte order mark", "lines of Windows", "blanks", "of PKCS 12"],
)
def test_nginx_gets_the_key_of_a_file_and_nothing_else(tmp_path: Path, text: bytes) -> None:
    found = served.read(given_files(tmp_path, LEAF, MIDDLE, key=text), NOW).certificate
    assert found is not None
    assert found.key.reveal().encode() == LEAF.key_pem


def with_open_key(sources: Sources) -> Sources:
    assert sources.key is not None
    sources.key.chmod(0o644)
    return sources


ED25519 = ed25519.Ed25519PrivateKey.generate()
SHORT = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
BAD: dict[str, tuple[Callable[[Path], Sources], str, str]] = {
    "another key": (
        lambda at: given_files(at, LEAF, MIDDLE, key=issued("x").key_pem),
        *("certificate", "is not the certificate of the key"),
    ),
    "chain turned round": (
        lambda at: given_files(at, MIDDLE, LEAF, key=LEAF.key_pem),
        *("certificate", "in the wrong order: certificate 2 of the file is that of the key, and has to be the first"),
    ),
    "a gap": (
        lambda at: given_files(at, LEAF, ROOT, key=LEAF.key_pem),
        *("certificate", "in the wrong order: certificate 2 of the file did not issue certificate 1"),
    ),
    "no issuer of ours": (lambda at: given_files(at, LEAF), "certificate", "does not lead to an authority of"),
    "of an authority": (lambda at: given_files(at, MIDDLE), "certificate", "and not with that of a server"),
    "no name": (
        lambda at: given_files(at, issued("lb", MIDDLE, "10.0.0.5"), MIDDLE),
        *("certificate", "has not the name llm.example, only 10.0.0.5"),
    ),
    "not yet": (
        lambda at: given_files(at, issued("lb", MIDDLE, *NAMES, begin=2), MIDDLE),
        *("certificate", "is not valid before"),
    ),
    "garbled": (
        lambda at: given_files(at, LEAF, certificate=put(at / "x", LEAF.pem[:100] + LEAF.pem[108:])),
        *("certificate", "cannot be read"),
    ),
    "no certificate": (lambda at: given_files(at, LEAF, certificate=put(at / "x")), "certificate", "no certificate"),
    "not there": (lambda at: given_files(at, LEAF, certificate=at / "none"), "certificate", "is not there"),
    "a folder": (lambda at: given_files(at, LEAF, key=b"", certificate=at), "certificate", "is not there"),
    "large": (
        lambda at: given_files(at, LEAF, certificate=put(at / "x", b"x" * (authority.LARGEST + 1))),
        *("certificate", "is larger than 1 MiB"),
    ),
    "encrypted key": (
        lambda at: given_files(at, LEAF, MIDDLE, key=pem_of(LEAF.key, b"pass")),
        *("key", "is encrypted"),
    ),
    "no key": (lambda at: given_files(at, LEAF, MIDDLE, key=b"x"), "key", "holds no private key in PEM"),
    "certificate as key": (lambda at: given_files(at, LEAF, MIDDLE, key=LEAF.pem), "key", "holds no private key"),
    "key for nobody": (
        lambda at: given_files(at, LEAF, MIDDLE, key=pem_of(ED25519)),
        *("key", "must be a key of RSA or of an elliptic curve"),
    ),
    "a curve that no client knows": (
        lambda at: given_files(at, LEAF, MIDDLE, key=pem_of(ec.generate_private_key(ec.SECP256K1()))),
        *("key", "has the curve secp256k1, which clients refuse"),
    ),
    "short key": (lambda at: given_files(at, LEAF, MIDDLE, key=pem_of(SHORT)), "key", "has 1024 bits"),
    "open key": (
        lambda at: with_open_key(given_files(at, LEAF, MIDDLE)),
        *("key", "is open to every user of this machine (mode 0644): `chmod 600"),
    ),
    "server as authority": (
        lambda at: given_files(at, LEAF, MIDDLE, trust=put(at / "x.pem", LEAF.pem)),
        *("trust", "is not that of an authority: CN=lb"),
    ),
    "server as authority of clients": (
        lambda at: given_files(at, LEAF, MIDDLE, client_ca=put(at / "x.pem", LEAF.pem)),
        *("client_ca", "is not that of an authority: CN=lb"),
    ),
    "only names with a star": (
        lambda at: given_files(at, issued("lb", MIDDLE, "*.example"), MIDDLE, names=()),
        *("names", "must list the names by which clients reach the balancer"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_no_balancer_can_use_are_refused_with_their_setting(tmp_path: Path, case: str) -> None:
    make, key, message = BAD[case]
    reading = served.read(make(tmp_path), NOW)
    assert reading.certificate is None
    assert message in dict(reading.problems).get(key, ""), reading.problems
    assert LEAF.key_pem.decode() not in str(reading.problems)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    sources = given_files(tmp_path, issued("lb", MIDDLE, "x.example"), key=b"x", trust=put(tmp_path / "t", b"x"))
    assert set(said(sources)) == {"certificate", "key", "trust"}


@pytest.mark.parametrize(("days", "left"), [(10.5, 10), (0.5, 0), (-0.5, -1)])
def test_a_chain_that_ends_or_has_ended_is_no_problem_of_the_inventory(tmp_path: Path, days: float, left: int) -> None:
    found = served.read(given_files(tmp_path, issued("lb", MIDDLE, *NAMES, days=days), MIDDLE), NOW).certificate
    assert found is not None
    assert found.days == left


def test_an_authority_that_has_ended_is_no_problem_of_the_inventory_and_ends_what_is_below(tmp_path: Path) -> None:
    old = root(days=-0.5)
    lasting = issued("root", key=old.key, days=50, authority=True)
    sources = given_files(tmp_path, issued("lb", old, *NAMES), trust=put(tmp_path / "old.pem", old.pem))
    assert certificate(sources).days == -1
    assert certificate(replace(sources, client_ca=sources.trust)).clients_days == -1
    both = replace(sources, trust=put(tmp_path / "both.pem", old.pem, lasting.pem))
    assert certificate(both).days == 49, "beside a new authority, an old one may end"
    assert certificate(replace(both, client_ca=both.trust)).clients_days == 49


def test_a_kept_certificate_outlives_the_authority_of_ones_own_as_ended_and_says_the_way(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    served.keep(certificate(own(tmp_path)), "lb-01")
    late = NOW + dt.timedelta(days=authority.AUTHORITY_DAYS + 1)
    for renew_within in (0, 30):
        found = served.read(own(tmp_path), late, renew_within).certificate
        assert found is not None
        assert (found.days < 0, found.is_new) == (True, False)
        assert "make another authority by `provision ca init --folder`" in found.hindered


@pytest.mark.parametrize(
    ("listed", "name", "covered"),
    [
        (("llm.example",), "LLM.example.", True),
        (("*.example",), "llm.example", True),
        (("*.example",), "a.llm.example", False),
        (("*.example",), "example", False),
        (("10.0.0.5",), "10.0.0.5", True),
        (("fd00::5",), "FD00:0::5", True),
        (("*.0.0.5",), "10.0.0.5", False),
        ((), "llm.example", False),
    ],
)
def test_names_are_covered_as_clients_judge_them(listed: tuple[str, ...], name: str, covered: bool) -> None:
    assert chain.covers(listed, name) == covered


def test_a_certificate_with_a_year_that_is_none_is_refused() -> None:
    begin = DER.index(b"\x17\x0d")
    years = bytearray(DER[:begin] + b"\x18\x0f00000101000000Z" + DER[begin + 15 :])
    around = ((2, DER[1] & 127), (6, DER[5] & 127), (begin - 1, 1))  # the lengths of all that has the time
    for place, size in around:
        longer = int.from_bytes(years[place : place + size], "big") + 2
        years[place : place + size] = longer.to_bytes(size, "big")
    with pytest.raises(UnusableError, match="year 0 is out of range"):
        chain.certificates(ssl.DER_cert_to_PEM_cert(bytes(years)).encode())


@given(some.lists(some.text(max_size=20), max_size=4), some.text(max_size=30))
def test_no_text_breaks_the_judgement_of_names(listed: list[str], name: str) -> None:
    assert chain.covers(listed, name) in (True, False)


@given(some.binary(max_size=300))
def test_no_bytes_break_the_readers_of_files(data: bytes) -> None:
    for reader in (chain.certificates, chain.private_key):
        with pytest.raises(UnusableError):
            reader(b"-----BEGIN CERTIFICATE-----\n" + data)
    assert chain.ends_of(data) is None


DER = ssl.PEM_cert_to_DER_cert(LEAF.pem.decode())


@given(some.lists(some.tuples(some.integers(0, len(DER) - 1), some.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_certificate_is_judged_or_refused(edits: list[tuple[int, int]]) -> None:
    damaged = bytearray(DER)
    for place, value in edits:
        damaged[place] = value
    try:
        found = chain.certificates(ssl.DER_cert_to_PEM_cert(bytes(damaged)).encode())
    except UnusableError:
        return
    said = [*chain.wrong_chain((*found, MIDDLE.certificate), LEAF.key, NOW), *chain.wrong_authorities(found)]
    assert all(text.isprintable() for text in said)
    assert chain.is_trusted(found, [ROOT.certificate]) in (True, False)
    assert len(chain.subject(found[0])) <= 120
    assert chain.covers(chain.names(found[0]), "llm.example") in (True, False)


@pytest.mark.parametrize("name", ['a"\nproxy = "x', "a\x1b[2Jb", "a b", "$host", "-k", "a" * 300, "*.*.test", "*"])
def test_a_name_that_is_no_name_is_no_name_of_a_certificate(tmp_path: Path, name: str) -> None:
    leaf = issued("lb", MIDDLE, name, "*.llm.example", "llm.example")
    assert chain.names(leaf.certificate) == ("*.llm.example", "llm.example")
    found = served.read(given_files(tmp_path, leaf, MIDDLE, names=()), NOW).certificate
    assert found is not None
    assert found.name == "llm.example"


def own(folder: Path, **more: object) -> Sources:
    return replace(Sources(host="lb-01", authority=folder / "ca", names=NAMES), **more)  # type: ignore[arg-type]


def certificate(sources: Sources, now: dt.datetime = NOW, renew_within: int = 0) -> ServerCertificate:
    reading = served.read(sources, now, renew_within)
    assert reading.certificate is not None, reading.problems
    return reading.certificate


def test_an_authority_issues_what_strict_clients_accept(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    found = certificate(own(tmp_path))
    (leaf,), (issuer,) = chain.certificates(found.chain), chain.certificates(found.trust)
    assert chain.is_issued_by(leaf, issuer)
    assert (found.names, found.name, found.days, found.is_new) == (NAMES, "llm.example", 89, True)
    assert [str(found.covers(name)) for name in (*NAMES, "x.example")] == ["True", "True", "False"]
    context = ssl.create_default_context(cadata=found.trust.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    files = put(tmp_path / "both", found.chain, found.key.reveal().encode())
    assert handshake(context, files, "llm.example") == ""
    assert handshake(context, files, "10.0.0.5") == ""
    assert "mismatch" in handshake(context, files, "x.example")


def handshake(client: ssl.SSLContext, files: Path, name: str) -> str:
    """Shake hands in memory; return the reason of a failure, or an empty text."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)
    done: set[object] = set()
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                return str(error)
    return "" if len(done) == 2 else "no end"


def test_an_authority_is_roots_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = authority.make(tmp_path / "ca", "ours", NOW)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, ".gitignore": 0o644}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "*.key" in (path.parent / ".gitignore").read_text().splitlines()
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with pytest.raises(UsageError, match="exists already"):
        authority.make(tmp_path / "ca", "another", NOW)
    (path.parent / "ca.pem").unlink()
    with pytest.raises(UsageError, match="exists already"):
        authority.make(tmp_path / "ca", "another", NOW)
    assert (path.parent / "ca.key").read_bytes() == before["ca.key"]


def test_a_kept_certificate_is_issued_once_and_renewed_before_its_end(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    first = certificate(own(tmp_path), renew_within=30)
    assert not (tmp_path / "ca" / "balancers").exists(), "a look writes nothing"
    path = served.keep(first, "lb-01")
    assert path == tmp_path / "ca" / "balancers" / "lb-01.pem"
    assert stat.S_IMODE(path.with_suffix(".key").stat().st_mode) == 0o600
    for later, renewed in ((59, False), (61, True), (91, True)):
        now = NOW + dt.timedelta(days=later)
        found = certificate(own(tmp_path), now, renew_within=30)
        assert (found.is_new, found.chain == first.chain) == (renewed, not renewed), later
        assert certificate(own(tmp_path), now).chain == first.chain, "a look at the present certificate"
    assert served.keep(certificate(own(tmp_path)), "lb-01") is None


@pytest.mark.parametrize(
    "names", [("llm.example",), (*NAMES, "new.example"), ("10.0.0.6",)], ids=["fewer", "more", "another"]
)
def test_other_names_need_a_new_certificate(tmp_path: Path, names: tuple[str, ...]) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    served.keep(certificate(own(tmp_path)), "lb-01")
    found = certificate(own(tmp_path, names=names))
    assert (found.is_new, found.names) == (True, names)


def damage(name: str, data: bytes | None, mode: int = 0o600) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        path = folder / name
        if data is None:
            path.unlink()
        else:
            put(path, data, mode=mode)

    return work


@pytest.mark.parametrize(
    "work",
    [
        damage("balancers/lb-01.key", issued("x").key_pem),
        damage("balancers/lb-01.key", None),
        damage("balancers/lb-01.pem", b"x"),
        damage("balancers/lb-01.pem", issued("lb", ROOT, *NAMES).pem),
    ],
    ids=["another key", "no key", "garbled", "of another authority"],
)
def test_a_kept_certificate_beyond_use_is_replaced(tmp_path: Path, work: Callable[[Path], None]) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    served.keep(certificate(own(tmp_path)), "lb-01")
    work(tmp_path / "ca")
    assert certificate(own(tmp_path)).is_new


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (damage("ca.pem", None), "has no authority: .*ca.pem is not there. `provision ca init` makes one"),
        (damage("ca.key", None), "ca.key is not there"),
        (damage("ca.key", issued("x").key_pem), "is the key of another authority"),
        (damage("ca.key", b"x", 0o644), "is open to every user"),
        (damage("ca.pem", root(days=-1).pem), r"has ended on \d{4}-\d\d-\d\d: make another authority by"),
    ],
    ids=["no certificate", "no key", "another key", "open key", "ended"],
)
def test_an_authority_beyond_use_is_a_problem_where_a_certificate_is_needed(
    tmp_path: Path, work: Callable[[Path], None], message: str
) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    work(tmp_path / "ca")
    reading = served.read(own(tmp_path), NOW)
    assert reading.certificate is None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reading.problems[0][1])


def test_a_valid_certificate_goes_on_without_the_key_of_its_authority(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    served.keep(certificate(own(tmp_path)), "lb-01")
    (tmp_path / "ca" / "ca.key").unlink()
    late = certificate(own(tmp_path), NOW + dt.timedelta(days=80), renew_within=30)
    assert (late.is_new, late.days) == (False, 9)
    assert "ca.key is not there" in late.hindered
    ended = certificate(own(tmp_path), NOW + dt.timedelta(days=91), renew_within=30)
    assert (ended.is_new, ended.days < 0, "ca.key is not there" in ended.hindered) == (False, True, True)


def test_a_kept_certificate_beyond_use_is_named_where_no_other_can_be_made(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    served.keep(certificate(own(tmp_path)), "lb-01")
    (tmp_path / "ca" / "ca.key").unlink()
    (tmp_path / "ca" / "balancers" / "lb-01.key").chmod(0o644)
    message = said(own(tmp_path))["authority"]
    assert "ca.key is not there. A new certificate is needed, because " in message
    assert "lb-01.key is open to every user of this machine (mode 0644)" in message


def test_a_balancer_with_a_long_name_gets_a_certificate_with_the_whole_name(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    name = ".".join(("a" * 60, "b" * 60, "example"))
    assert certificate(own(tmp_path, host=name, names=(name,))).names == (name,)


def test_a_file_that_cannot_be_written_whole_leaves_no_part_of_a_key(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    found = certificate(own(tmp_path))
    (tmp_path / "ca" / "balancers" / "lb-01.key").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be written"):
        served.keep(found, "lb-01")
    assert [path.name for path in (tmp_path / "ca" / "balancers").iterdir()] == ["lb-01.key"]


def test_no_certificate_outlives_its_authority_and_none_is_made_again_and_again(tmp_path: Path) -> None:
    authority.make(tmp_path / "ca", "ours", NOW)
    late = NOW + dt.timedelta(days=authority.AUTHORITY_DAYS - 10)
    first = certificate(own(tmp_path), late, renew_within=30)
    assert (first.days, first.authority_days) == (9, 9), "its clock has gone on since"
    served.keep(first, "lb-01")
    assert not certificate(own(tmp_path), late, renew_within=30).is_new
    assert certificate(own(tmp_path), late, renew_within=100_000).is_new, "by hand: somebody may know the key"


@given(some.ip_addresses())
def test_every_address_can_be_in_a_certificate(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    pair = issued("x", None, str(address))
    assert chain.covers(chain.names(pair.certificate), str(address))
