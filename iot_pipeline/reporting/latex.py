"""LaTeX of the report's tables: `booktabs` tables that a paper can \\input."""

import re
from collections.abc import Sequence

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "²": r"\textsuperscript{2}",
}  # fmt: skip
NUMERIC = re.compile(r"[-+$]?[\d.,]+( %)?( ?\[.*\])?|–|")


def latex(text: str) -> str:
    """Escape text so that LaTeX prints it as it is; control characters are left out."""
    return "".join(SPECIAL.get(sign, sign) for sign in text if sign.isprintable())


def latex_table(label: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a floating table with caption and label `tab:<label>`; columns of numbers are right-aligned.

    Args:
        label: Label, by which a paper refers to the table.
        caption: Caption as plain text.
        columns: Names of the columns.
        rows: Cells as plain text.
    """
    sides = ["r" if all(NUMERIC.fullmatch(row[at]) for row in rows) else "l" for at in range(len(columns))]
    lines = [" & ".join(map(latex, cells)) + r" \\" for cells in [columns, *rows]]
    body = "\n".join(lines[1:])
    return (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{latex(caption)}}}\n\\label{{tab:{label}}}\n"
        f"\\begin{{tabular}}{{{''.join(sides)}}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )
