"""Tables as LaTeX."""

import re
from pathlib import Path

from gptfluence.paper.tables.latex import escape_tex
from made_up import make_scores, write


def test_tex_is_escaped_and_balanced(tmp_path: Path) -> None:
    assert escape_tex(r"a_b & 5% {x} \y ~^#$") == (
        r"a\_b \& 5\% \{x\} \textbackslash{}y \textasciitilde{}\textasciicircum{}\#\$"
    )
    for table in ("table_1", "table_3"):
        tex = write(tmp_path, table, make_scores(models=("my_model & co",)))["tex"]
        assert r"my\_method" in tex
        assert r"my\_model \& co" in tex
        bare = re.sub(r"\\[&%$#_{}]", "", tex)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        for word in ("table*", "tabular"):
            assert tex.count(rf"\begin{{{word}}}") == tex.count(rf"\end{{{word}}}") == 3
        for body in re.findall(r"\\begin\{tabular\}\{(l+r+)\}\n(.*?)\\end\{tabular\}", bare, re.S):
            rows = [line for line in body[1].split("\n") if line.endswith(r"\\") and "multicolumn" not in line]
            assert len(rows) > 5
            assert {row.count("&") + 1 for row in rows} == {len(body[0])}
        assert max(ord(c) for c in tex) < 128
