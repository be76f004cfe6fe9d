"""`provision fit`: models and cards by name, hostile words, and the table against the figures of docs/facts.md."""

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import cli
from provision.actions.fit import Fit, Wish, fit, table
from provision.capacity import catalogue
from provision.capacity.cards import named
from provision.capacity.estimate import GIB, MIB, Request, cache_of_blocks
from provision.capacity.verdict import largest_context
from provision.errors import UsageError

RUNBOOK = Path(__file__).parents[2] / "docs/runbooks/size-a-model.md"
FACTS = (Path(__file__).parents[2] / "docs/facts.md").read_text()


def judged(model: str, *gpus: str, context: int = 8192, quantisation: str = "") -> Fit:
    return fit(Wish(model, gpus, Request(context), quantisation))


def test_cards_by_number_and_by_memory() -> None:
    for text in ("2x RTX 4090", "2 x RTX 4090", "2xRTX4090", "2* rtx-4090"):
        assert [card.name for card in judged("deepseek-r1:32b", text).cards] == ["RTX 4090"] * 2
    several = judged("deepseek-r1:32b", "RTX 4090", "24GiB", "512 MiB").cards
    assert [card.free for card in several[1:]] == [24 * GIB, 512 * MIB]


@pytest.mark.parametrize(
    ("model", "gpu", "problem"),
    [
        ("deepseek-r1:33b", "T4", "did you mean deepseek-r1:32b"),
        ("llama3.1:8b", "T4", "no dimensions of 'llama3.1:8b'"),
        ("x" * 10_000, "T4", "no dimensions"),
        ("\x1b[2Jdeepseek", "T4", r"no dimensions of '.*x1b"),
        ("deepseek-r1:7b", "A100", "did you mean A100 40GB or A100 80GB"),
        ("deepseek-r1:7b", "RTX 4091", "did you mean RTX 40"),
        ("deepseek-r1:7b", "", "no card ''"),
        ("deepseek-r1:7b", "\x1b[2J", "no card"),
        ("deepseek-r1:7b", "0x T4", "1 to 64 cards, not 0"),
        ("deepseek-r1:7b", "9999x T4", "1 to 64 cards, not 9999"),
        ("deepseek-r1:7b", "-4 T4", "no card"),
        ("deepseek-r1:7b", "1e9GiB", "no card"),
    ],
)
def test_unknown_names_are_refused_with_a_near_name(model: str, gpu: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as raised:
        judged(model, gpu)
    assert raised.value.hint
    assert "\x1b" not in str(raised.value)


def test_too_many_cards_together() -> None:
    with pytest.raises(UsageError, match="1 to 64 cards, not 80"):
        judged("deepseek-r1:7b", "40x T4", "40x T4")


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_words_are_judged_or_refused(model: str, gpu: str) -> None:
    for wish in (Wish(model, (gpu,), Request(8192)), Wish("deepseek-r1:7b", (gpu,), Request(8192))):
        try:
            said = fit(wish).verdict.sentence
        except UsageError as error:
            said = f"{error.message} {error.hint}"
        assert said.isprintable()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--parallel", "0"], "--parallel"),
        (["--context", "0"], "--context"),
        (["--context", "99999999999999999999"], "--context"),
        (["--cache-type", "f32"], "--cache-type"),
        (["--quantisation", "Q2"], "--quantisation"),
        (["--model", "deepseek-r1:7b"], "say --model and --gpu"),
        (["--table", "--gpu", "T4"], "--table has every model"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str], words: list[str], problem: str) -> None:
    assert cli.execute(["fit", *words]) == 2
    assert problem in capsys.readouterr().err


def test_exit_code_5_if_less_than_the_wish_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["fit", "--model", "deepseek-r1:32b", "--gpu", "RTX 4090"]) == 0
    assert cli.execute(["fit", "--model", "deepseek-r1:32b", "--gpu", "RTX 4090", "--context", "32768"]) == 5
    assert re.search(r"fits with context \d{5};", capsys.readouterr().out)


def test_a_context_beyond_the_training_context_is_told() -> None:
    found = judged("deepseek-r1:7b", "H200", context=10_000_000)
    assert found.exit_code == 0
    assert "cuts the context 10000000 to the 131072 tokens" in found.remarks[0]
    assert "context 131072 x 1" in found.verdict.sentence


def test_names_of_the_library_with_a_type_of_weights() -> None:
    assert judged("deepseek-r1", "T4").dimensions.name == "deepseek-r1:8b"
    tagged = judged("deepseek-r1:32b-qwen-distill-q8_0", "A100 80GB").dimensions
    assert tagged == judged("deepseek-r1:32b", "A100 80GB", quantisation="Q8_0").dimensions
    with pytest.raises(UsageError):
        judged("deepseek-r1:8b-llama-distill-q8_0", "T4")  # another model, with other dimensions


def figures_of_the_facts() -> list[tuple[str, int, int]]:
    """Return size, bytes of the file, and KiB of a token in the cache, from docs/facts.md."""
    text = " ".join(re.findall(r"### DeepSeek-R1\n(.*?)\n## ", FACTS, re.DOTALL)[0].split())
    files = dict(re.findall(r"(\d[\d.]*b) (?:about )?(\d[\d,]{9,})", text.partition("Shapes")[0]))
    tokens = dict(re.findall(r"(\d+) KiB \((\d[\d.]*b)\)", text))
    return [(size, int(files[size].replace(",", "")), int(kib)) for kib, size in tokens.items()]


@pytest.mark.parametrize(("size", "bytes_of_file", "kib"), figures_of_the_facts())
def test_the_table_of_models_has_the_figures_of_the_facts(size: str, bytes_of_file: int, kib: int) -> None:
    dimensions = catalogue.dimensions(f"deepseek-r1:{size}")
    assert dimensions is not None
    weights = dimensions.weights
    assert sum(weights.blocks) + weights.output + weights.input == bytes_of_file
    for context, parallel in ((4096, 1), (8192, 1), (8192, 4), (32768, 1), (131072, 1)):
        assert sum(cache_of_blocks(dimensions, Request(context, parallel))) == context * parallel * kib << 10


def test_all_models_are_in_the_facts() -> None:
    assert len(figures_of_the_facts()) == len(catalogue.MODELS) - 1, "all but the 671b, whose cache is told in MiB"


LARGEST = [  # thousands of tokens, f16 and q8_0, by FACTS of the project with a flat overhead of 1.6 GiB
    ("RTX 4060", "7b", 30, 57),
    ("RTX 4060", "8b", 8, 15),
    ("RTX 4070", "14b", 8.9, 16),
    ("RTX 4080", "14b", 30, 57),
    ("RTX 4090", "32b", 12.7, 24),
    ("RTX 5090", "32b", 45, 86),
    ("A100 40GB", "32b", 77, 131),
    ("A100 80GB", "70b", 123, 131),
]


@pytest.mark.parametrize(("gpu", "size", "plain", "quantised"), LARGEST)
def test_the_largest_contexts_are_near_the_figures_of_a_flat_overhead(
    gpu: str, size: str, plain: float, quantised: float
) -> None:
    dimensions, card = catalogue.dimensions(f"deepseek-r1:{size}"), named(gpu)
    assert dimensions is not None
    assert card is not None
    for kind, expected in (("f16", plain), ("q8_0", quantised)):
        found = largest_context(dimensions, Request(1, 1, kind), [card])
        slack = 0.75 * GIB / sum(cache_of_blocks(dimensions, Request(1024, 1, kind)))  # KiB-tokens of 0.75 GiB
        assert abs(found / 1024 - expected) <= max(slack, 0.1 * expected), (kind, found)


def test_the_table_says_what_a_judgement_says() -> None:
    rows = {card.name: cells for card, cells in table(Request(16384)).rows}
    for name, quantisation, size in (("RTX 4090", "Q4_K_M", "32b"), ("T4", "Q8_0", "14b"), ("H200", "F16", "671b")):
        cell = next(
            cell for cell in rows[name] if (cell.model, cell.quantisation) == (f"deepseek-r1:{size}", quantisation)
        )
        verdict = judged(cell.model, name, context=16384, quantisation=quantisation).verdict
        assert (cell.fits, cell.cards) == (verdict.kind.value == "fits", verdict.cards_needed)
    assert {"RTX 5090", "RTX 2060", "T4", "A10", "A100 40GB", "A100 80GB", "L40S", "H100", "H200"} <= set(rows)


def lines_of_the_runbook() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("line", lines_of_the_runbook())
def test_every_command_of_the_runbook(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed, _, code = line.partition("# exit ")
    program, *words = shlex.split(typed)
    assert program == "provision"
    assert cli.execute(words) == int(code or 0)
    assert "estimate" in capsys.readouterr().out
