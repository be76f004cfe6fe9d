"""The script of a read. A real shell runs the script, so that the tests prove the quoting."""

import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from provision.command import Put, Run
from provision.ssh.script import PUT_TIMEOUT, assemble, longest, make_mark, parse
from tests.shell import sh

# Any text that can be an argument of a program: no NUL.
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


def shell(commands, *, stop=False, noise=b""):
    mark = make_mark()
    text = assemble(commands, mark, stop=stop)
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, check=False, timeout=60)
    return parse(noise + done.stdout, noise + done.stderr, mark, len(commands))


@settings(max_examples=60)
@given(st.lists(words, max_size=5), st.binary(max_size=200))
def test_words_and_stdin_arrive_unchanged(arguments, stdin):
    program = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read() + repr(sys.argv[1:]).encode())"
    run = Run(("python3", "-c", program, *arguments), stdin)
    [answer] = shell([run])
    assert answer.stdout == stdin + repr(arguments).encode()


@settings(max_examples=30)
@given(st.lists(st.lists(words, max_size=4), min_size=2, max_size=4), st.binary(max_size=100))
def test_words_and_stdin_arrive_unchanged_in_a_shared_shell(lists, stdin):
    told = b'for word do printf "%s\\0" "$word"; done'
    runs = [Run(("sh", "-s", "--", *arguments), told) for arguments in lists]
    answers = shell([*runs, Run(("cat",), stdin), Run(("printf", "%s\\0", *lists[0]))])
    sent = ["".join(f"{word}\0" for word in arguments).encode() for arguments in lists]
    assert [answer.stdout for answer in answers] == [*sent, stdin, sent[0] or b"\0"]


@settings(max_examples=30)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_output_is_kept_byte_for_byte(out, err):
    program = "import sys; a, b = eval(sys.stdin.read()); sys.stdout.buffer.write(a); sys.stderr.buffer.write(b)"
    [answer] = shell([Run(("python3", "-c", program), repr((out, err)).encode())], noise=b"Welcome!\n")
    assert (answer.stdout, answer.stderr) == (out, err)


def test_each_command_has_its_own_exit_code_and_streams():
    answers = shell([sh("echo out; echo err >&2; exit 3", title="one"), Run(("true",)), Run(("no-such-program",))])
    assert [(a.exit, a.text, a.stderr) for a in answers[:2]] == [(3, "out\n", b"err\n"), (0, "", b"")]
    assert answers[2].exit == 127


def test_a_failing_command_ends_a_batch_with_stop(tmp_path):
    left = tmp_path / "left"
    answers = shell([Run(("true",)), Run(("false",)), Run(("touch", str(left)))], stop=True)
    assert [a.exit for a in answers] == [0, 1]
    assert not left.exists()


def test_other_exit_codes_can_be_declared_good(tmp_path):
    assert len(shell([Run(("false",), ok=(0, 1)), Run(("sh", "-c", "exit 9"), ok=()), Run(("true",))], stop=True)) == 3


def test_a_hanging_command_is_ended():
    [answer, after] = shell([Run(("sleep", "60"), timeout=0.2), Run(("true",))])
    assert (answer.exit, after.exit) == (124, 0)


def test_a_command_cannot_eat_the_rest_of_the_script():
    assert [a.text for a in shell([Run(("cat",)), Run(("echo", "still here"))])] == ["", "still here\n"]


def test_a_hanging_command_in_a_shared_shell_ends_and_the_others_run():
    hangs = Run(("sh", "-s"), b"echo half; sleep 60; echo never", timeout=2)
    quick = [Run(("echo", str(number)), timeout=60) for number in range(4)]
    answers = shell([quick[0], hangs, quick[1], hangs, quick[2], quick[3]])
    assert [answer.exit for answer in answers] == [0, 124, 0, 124, 0, 0]
    assert [answer.text for answer in answers] == ["0\n", "half\n", "1\n", "half\n", "2\n", "3\n"]


def test_many_slow_commands_in_a_shared_shell_have_their_whole_limit_each():
    slow = Run(("sh", "-s"), b"echo out; echo error >&2; sleep 0.6; echo end", timeout=4)
    answers = shell([slow] * 8)
    assert [(answer.exit, answer.text, answer.error) for answer in answers] == [(0, "out\nend\n", "error")] * 8


def test_scripts_in_a_shared_shell_share_nothing_else():
    scripts = (
        b"set -eu; x=1; cd /; echo $1; exit 3",
        b"echo ${x-unset} $#; false; pwd",
        b"set -- 5; return 0; echo $1",
    )
    runs = [Run(("sh", "-s", "--", "it's", "a $(b)"), text) for text in scripts]
    answers = shell([*runs, Run(("true",))])
    assert [(answer.exit, answer.text) for answer in answers[:2]] == [(3, "it's\n"), (0, f"unset 2\n{Path.cwd()}\n")]
    assert answers[3].exit == 0


def test_a_command_that_kills_the_shared_shell_fails_alone():
    kills = Run(("sh", "-s"), b"kill -9 $PPID; kill -9 $$; sleep 5")
    answers = shell([Run(("true",)), kills, Run(("echo", "after"))])
    assert [answers[0].exit, answers[1].exit != 0, answers[2].text] == [0, True, "after\n"]


def test_a_script_is_given_the_time_of_all_its_commands():
    reads = [Run(("true",), timeout=20)] * 3
    assert longest(reads) == 60
    assert longest([reads[0], Put("/x", b"")]) == 20 + PUT_TIMEOUT


def test_output_that_looks_like_a_mark_stays_output():
    forged = b"\nprovision-0000 end 0 0\n"
    [answer] = shell([Run(("cat",), forged)])
    assert (answer.exit, answer.stdout) == (0, forged)


def test_a_truncated_script_runs_nothing(tmp_path):
    left = tmp_path / "left"
    text = assemble([Run(("touch", str(left))), Run(("true",))], make_mark(), stop=False)
    for size in range(0, len(text) - len("main </dev/null\n"), 7):
        subprocess.run(["sh", "-s"], input=text[:size], capture_output=True, check=False)
    assert not left.exists()


def test_a_file_is_written_whole_with_its_mode(tmp_path):
    path = tmp_path / "it's a file"
    [answer] = shell([Put(str(path), b"\x00\xffnot text", 0o640, owner="")])
    assert answer.exit == 0, answer.error
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"\x00\xffnot text", 0o640)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    [answer] = shell([Put(str(path), b"new", owner="nobody-of-this-name:root")])
    assert answer.exit != 0
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_missing_answers_are_not_made_up():
    mark = make_mark()
    assert parse(f"\n{mark} begin 0\nhalf".encode(), b"", mark, 2) == []


def test_a_slow_read_runs_beside_the_later_commands(tmp_path):
    """The slow read waits for a file that only a later command creates."""
    wait = f"until [ -e {tmp_path}/done ]; do sleep 0.01; done; echo out; echo error >&2; exit 3"
    slow = [Run(("sh", "-c", wait), timeout=60, slow=True), Run(("sh", "-s"), wait.encode(), timeout=60, slow=True)]
    said = shell([Run(("echo", "before")), *slow, Run(("sh", "-c", f"echo after; touch {tmp_path}/done"))])
    assert [(a.exit, a.text, a.complaint) for a in said] == [
        (0, "before\n", ""),
        (3, "out\n", "error"),
        (3, "out\n", "error"),
        (0, "after\n", ""),
    ]


def test_a_slow_read_begins_after_all_earlier_commands_ended(tmp_path):
    """A run takes the lock before a read that needs the lock."""
    touch = Run(("sh", "-c", f"sleep 0.1; touch {tmp_path}/locked"))
    said = shell([touch, Run(("ls", str(tmp_path)), slow=True)])
    assert said[1].text == "locked\n"


def test_a_slow_read_may_print_more_than_a_pipe_holds():
    said = shell([Run(("head", "-c", "300000", "/dev/zero"), slow=True), Run(("true",))])
    assert [(len(a.stdout), a.exit) for a in said] == [(300000, 0), (0, 0)]


def test_an_exit_code_that_is_no_number_is_no_answer():
    for code in ("ok", "9" * 5000, ""):
        assert parse(f"\nmark begin 0\n\nmark end 0 {code}\n".encode(), b"", "mark", 1) == []
