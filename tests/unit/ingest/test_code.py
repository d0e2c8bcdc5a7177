"""Source code is cut at its definitions, in whatever language."""

from __future__ import annotations

import pytest

from gateway.ingest.blocks import Style
from gateway.ingest.chunking import chunk_text
from gateway.ingest.code import definition_of

PYTHON = '''"""What opens the gate."""

import os

LIMIT = 3


@dataclass
class Gate:
    """A gate."""

    name: str

    # It may be open already.
    async def open(self, hour: int) -> None:
        """Open it."""
        if hour > LIMIT:
            def inner() -> None:
                pass

            inner()

    def close(self) -> None:
        self.name = ""


def main() -> None:
    print(os.getcwd())
'''

GO = """package gate

func (g *Gate) Open(hour int) error {
\treturn nil
}

type Keeper struct {
\tName string
}
"""

JAVA = """package gate;

public final class Gate {
    private int hour;

    @Override
    public void open(int hour) throws IOException {
        this.hour = hour;
    }

    int close()
    {
        return 1;
    }
}
"""


def _headings(text: str, max_chars: int) -> list[str]:
    return [
        chunk.heading
        for chunk in chunk_text(text, max_chars=max_chars, overlap_chars=0, style=Style.CODE)
        if chunk.heading
    ]


def test_a_definition_that_fits_stays_whole_with_what_is_written_above_it() -> None:
    chunks = chunk_text(PYTHON, max_chars=420, overlap_chars=0, style=Style.CODE)
    (gate,) = [chunk for chunk in chunks if chunk.heading == "Gate"]
    assert "@dataclass\nclass Gate:" in gate.text
    assert gate.text.endswith('self.name = ""')


def test_a_longer_class_is_cut_at_its_methods() -> None:
    chunks = chunk_text(PYTHON, max_chars=230, overlap_chars=0, style=Style.CODE)
    by_heading = {chunk.heading: chunk.text for chunk in chunks}
    assert by_heading["Gate > open"].startswith("# It may be open already.\n    async def open")
    assert by_heading["Gate > open"].endswith("inner()")
    assert "Gate > close" in by_heading or "Gate" in by_heading


@pytest.mark.parametrize(
    ("text", "headings"),
    [(GO, ["Open", "Keeper"]), (JAVA, ["Gate", "Gate > open", "Gate > close"])],
    ids=["go", "java"],
)
def test_other_languages_have_paths_too(text: str, headings: list[str]) -> None:
    assert _headings(text, 80 if text is GO else 100) == headings


def test_a_function_too_long_is_cut_between_lines_under_its_name() -> None:
    text = "def long():\n" + "".join(f"    value_{number} = compute({number})\n" for number in range(60))
    chunks = chunk_text(text, max_chars=200, overlap_chars=0, style=Style.CODE)
    assert {chunk.heading for chunk in chunks} == {"long"}
    assert all(chunk.text.endswith(")") or chunk.text.startswith("def") for chunk in chunks)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("def run(self):", "run"),
        ("class Gate(Base):", "Gate"),
        ("class Gate:", "Gate"),
        ("export default async function open() {", "open"),
        ("export const open = async (hour) => {", "open"),
        ("const close = hour => {", "close"),
        ("interface Gate<T> {", "Gate"),
        ("pub(crate) async fn open(&self) -> Result<()> {", "open"),
        ("impl<T> Display for Gate<T> {", "Display for Gate<T>"),
        ("func Open(hour int) error {", "Open"),
        ("func (g *Gate) Close() {", "Close"),
        ("static inline int open_gate(const char *name, int hour)", "open_gate"),
        ("std::string Gate::name() const {", "Gate::name"),
        ("public List<String> names(int count) {", "names"),
        ("async open(hour) {", "open"),
        ("CREATE TABLE IF NOT EXISTS gates (", "gates"),
        ("open_gate() {", "open_gate"),
        ("module Gate", "Gate"),
        ("def open?", "open?"),
    ],
)
def test_a_definition_has_a_name(line: str, name: str) -> None:
    assert definition_of(line) == name


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x = 1",
        "if (a) {",
        "} else if (open(gate)) {",
        "return open(gate);",
        "open(gate);",
        "for (int i = 0; i < n; i++) {",
        "while (true) {",
        "new Gate(name) {",
        "# class of gates",
        "classify(gate)",
        "import { open } from 'gate';",
        "define",
        "x" * 400,
    ],
)
def test_other_lines_define_nothing(line: str) -> None:
    assert definition_of(line) == ""
