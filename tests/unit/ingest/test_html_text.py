from __future__ import annotations

import pytest

from gateway.ingest.html_text import html_to_markdown

HTML = """<!doctype html><html><head><title>The  Guide</title><style>p {}</style></head>
<body><nav>Home</nav><h1>Guide</h1>
<p>First &amp; <b>bold</b>
words.</p><script>alert(1)</script><!-- not this -->
<h2 id=x>Install</h2><pre><code>make run
  # not a heading</code></pre>
<ul><li>one</li><li>two</li></ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<p hidden>secret</p><template>no</template></body></html>"""


def test_headings_lists_tables_and_code_are_kept() -> None:
    assert html_to_markdown(HTML) == (
        "# The Guide\n\nHome\n\n# Guide\n\nFirst & bold words.\n\n## Install\n\n"
        "```\nmake run\n  # not a heading\n```\n\n- one\n- two\n\na | b\n1 | 2\n"
    )


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("<", "<\n"),
        ("<!--", ""),
        ("<p>a<script>b", "a\n"),
        ("<pre>a", "```\na\n```\n"),
        ("<pre>a```b</pre>", "```\na'''b\n```\n"),
        ("<pre>a<br>b</pre>", "```\na\nb\n```\n"),
        ("<head><p>words", "words\n"),
        ("</p></pre></script>x", "x\n"),
        ("<frob>a<x-y>b</x-y></frob>", "ab\n"),
        ("a<br>b", "a\nb\n"),
        ("<title>T</title><h1>H</h1>", "# H\n"),
        ("<title>T</title>words", "# T\n\nwords\n"),
        ("<h3>a\nb</h3>c", "### a b\n\nc\n"),
        ("<div>" * 500 + "deep", "deep\n"),
    ],
)
def test_broken_and_odd_html_is_read_as_well_as_it_goes(html: str, text: str) -> None:
    assert html_to_markdown(html) == text
