"""The share of pronouns: how words and sentences are counted, and how a change is judged."""

import subprocess

import pytest

from tests import prose

HEAVY = "What it says is what that which they gave to them says."


def words(path, source):
    return [word for sentence in prose.sentences(path, source) for _, word in sentence.words]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Stop the host."""\n', "Stop the host"),
        ('def f():\n    """Stop.\n\n    Args:\n        host: an id.\n    """\n', "Stop Args host an id"),
        ("x = 1\n# a host\n# stops\n", "a host stops"),
        ("x = 1  # a host\n", "a host"),
        ('x = "a host"\n', ""),
        ("x = 1  # noqa: S101, E501 - a reason\n", "a reason"),
        ("x = 1  # type: ignore[attr-defined]\n", ""),
        ('"""Take `what.it` and ``that``, 30 % of 4 hosts."""\n', "Take and of hosts"),
        ('"""See ssh/script.py, --limit, max_unavailable, https://it.example/that."""\n', "See limit"),
        ('"""Add.\n\n>>> add(it)\nwhat\n\nThe end.\n"""\n', "Add The end"),
        ('"""It\'s the host\'s up-to-date lock."""\n', "It's the host's up-to-date lock"),
    ],
)
def test_words_of_python(source, expected):
    assert sorted(words("a.py", source)) == sorted(expected.split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# Hosts\n\nA host is\nread.\n", "Hosts A host is read"),
        ("Run:\n\n    make it\n\n    that\n\nThe end.\n", "Run The end"),
        ("Run:\n\n```sh\nmake it\n```\nThe end.\n", "Run The end"),
        ("A [page](docs/what.md) and `it`.\n", "A page and"),
        ("| what | a host |\n|---|---|\n| `it` | a lock |\n", "what a host a lock"),
    ],
)
def test_words_of_a_page(source, expected):
    assert words("a.md", source) == expected.split()


def test_words_of_a_template():
    source = "{# The port. #}\nlisten {{ it }};\n# A line for {{ that }}\nuser who;\n"
    assert words("a.j2", source) == ["The", "port", "A", "line", "for"]


def test_sentences_end_at_stops_items_cells_and_names():
    page = "First. Second one\ngoes on.\n* third\n* fourth\n\n| a cell | a cell |\n"
    counts = [(s.words[0][0], len(s.words)) for s in prose.sentences("a.md", page)]
    assert counts == [(1, 1), (1, 4), (3, 1), (4, 1), (6, 2), (6, 2)]
    source = '"""Deploy.\n\nArgs:\n    hosts: ids\n    lock (bool): a lock\n"""\n'
    assert [str(s) for s in prose.sentences("a.py", source)][1:] == [
        "a.py:3: 0 % of the words are pronouns: Args:",
        "a.py:4: 0 % of the words are pronouns: hosts: ids",
        "a.py:5: 0 % of the words are pronouns: lock (bool): a lock",
    ]


def test_comments_of_one_block_are_one_text():
    source = "x = 1\n# The lock is\n# given back.\ny = 1  # after code\n# another\n"
    assert [len(s.words) for s in prose.sentences("a.py", source)] == [5, 2, 1]


def test_the_share_is_that_of_the_pronouns():
    count = prose.Count.of(["It's", "the", "One", "lock", "another", "WHO", "keeps"])
    assert (count.words, count.pronouns) == (7, 3)
    assert prose.Count().share == 0


@pytest.mark.parametrize(
    ("path", "room"),
    [
        ("provision/errors.py", "provision"),
        ("provision/runs/lock.py", "provision/runs"),
        ("provision/lab/simulated/ollama_api.py", "provision/lab"),
        ("provision/steps/base.py", "provision/steps"),
        ("provision/steps/docker/image.py", "provision/steps/docker"),
        ("roles/ollama.py", "roles"),
        ("templates/nginx/logrotate.j2", "templates"),
        ("tests/unit/test_prose.py", "tests/unit"),
        ("docs/runbooks/recover.md", "pages"),
        ("README.md", "pages"),
    ],
)
def test_rooms(path, room):
    assert prose.room(path) == room


def test_every_bound_belongs_to_a_room_and_files_exist():
    rooms = {prose.room(str(path.relative_to(prose.ROOT))) for path in prose.files()}
    assert set(prose.BOUNDS) <= rooms
    assert {"pages", "roles", "templates", "tests/unit", "provision/rollout"} <= rooms


def git(folder, *more):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, "-C", str(folder), *more], capture_output=True, check=True)


def commit(folder, *lines):
    with (folder / "README.md").open("a") as page:
        page.writelines(f"{line}\n" for line in lines)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")


@pytest.fixture
def tree(tmp_path):
    """A repository of two commits. The first has a heavy sentence."""
    folder = tmp_path / "tree"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, HEAVY, "")
    commit(folder, "Hosts are read.", "")
    return folder


def test_a_room_above_its_bound_fails(tree, capsys):
    assert prose.run([], tree, {}) == 1
    assert "pages: 46.67 % of the words are pronouns, the bound is 5.0 %" in capsys.readouterr().out
    assert prose.run([], tree, {"pages": 46.7}) == 0


def test_a_change_answers_for_its_own_lines_alone(tree):
    assert prose.run(["--added"], tree) == 0
    assert prose.run(["--added", "HEAD"], tree) == 0


@pytest.mark.parametrize("committed", [True, False])
def test_a_heavy_sentence_fails_with_its_file_and_line(tree, capsys, committed):
    if committed:
        commit(tree, HEAVY)
    else:
        (tree / "docs").mkdir()
        (tree / "docs" / "new.md").write_text(f"New.\n\n{HEAVY}\n")
    assert prose.run(["--added"], tree) == 1
    place = "README.md:5" if committed else "docs/new.md:3"
    assert f"{place}: 58 % of the words are pronouns: {HEAVY}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["The host that failed keeps its lock, and the run ends."] * 6, 1),  # 6 of 66 words
        (["The host that failed keeps its lock, and the run ends."] * 5, 0),  # 55 words are too few to judge
        (["The failed host keeps its lock, and the run ends."] * 6, 0),
        (["What is it?"], 0),  # too short for a sentence to be judged
    ],
)
def test_the_added_words_are_judged_together(tree, capsys, lines, code):
    commit(tree, *lines)
    assert prose.run(["--added"], tree) == code
    if code:
        assert "9.1 % of the 66 added words are pronouns; less than 5.0 % may be" in capsys.readouterr().out


def test_the_base_is_where_the_branch_left_main(tree, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(tree), str(clone))
    commit(clone, HEAVY, "")
    commit(clone, "Hosts are planned.")
    assert prose.run(["--added", "HEAD~1"], clone) == 0
    assert prose.run(["--added"], clone) == 1


def test_an_unknown_base_is_an_error(tree, capsys):
    assert prose.run(["--added", "v9"], tree) == 2
    assert "no commit v9 in this checkout" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["shallow", "tarball", "inside"])
def test_without_an_earlier_commit_the_whole_tree_is_judged(tree, tmp_path, capsys, kind):
    copy = {"shallow": tmp_path / "copy", "tarball": tmp_path / "copy", "inside": tree / "copy"}[kind]
    if kind == "shallow":
        git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tree}", str(copy))
    else:
        copy.mkdir()
        (copy / "README.md").write_text(HEAVY)
    assert prose.run(["--added"], copy, {}) == 1
    said = capsys.readouterr().out
    assert "no earlier commit here" in said
    assert "pages: " in said


def test_the_heaviest_sentences_come_first(tree, capsys):
    commit(tree, "The host that failed keeps its lock until tomorrow at noon.")
    assert prose.run(["--worst", "1", "READ"], tree) == 0
    assert capsys.readouterr().out == f"README.md:1: 58 % of the words are pronouns: {HEAVY}\n"
