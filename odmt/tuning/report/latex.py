"""LaTeX tables of the protocol, ready to paste; needs booktabs and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the \\ of the row before it would be its argument
    "]": "{]}",
    "*": "{*}",  # the same
    '"': r"\textquotedbl{}",
    "-": "-{}",  # no dashes out of --flags
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "\n": " ",
    "\r": " ",
    "\t": " ",
}
_TABLE = str.maketrans(_ESCAPES)


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it stands, whatever it holds; line breaks become spaces."""
    return "".join(char for char in text if char.isprintable() or char in "\n\r\t").translate(_TABLE)


def table(columns: str, head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, label: str) -> str:
    """Return a floating table; every cell and the caption are escaped here."""
    lines = [
        r"\begin{table}[t]",
        r"  \centering\footnotesize",
        rf"  \caption{{{escaped(caption)}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        *([_row(head), r"    \midrule"] if head else []),
        *(_row(row) for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"    {' & '.join(map(escaped, cells))} \\\\"


def protocol_tex(card: Mapping[str, Any]) -> str:
    """Return the card's two tables: the axes, and everything else of the protocol."""
    study = card["study"]
    axes = [
        [axis["path"], axis["kind"], axis["range"], axis["condition"] or "always", axis["incumbent"], axis["best"]]
        for axis in card["axes"]
    ]
    facts = [[fact["name"], fact["value"]] for fact in card["facts"] if fact["in_tex"]]
    fixed = [[f"fixed: {item['path']}", item["value"]] for item in card["fixed"]]
    head = ("Setting", "Kind", "Range", "Exists if", "Incumbent", "Best")
    return "\n\n".join(
        [
            "% needs \\usepackage{booktabs} and, for quotation marks, \\usepackage[T1]{fontenc}",
            table("llp{0.22\\linewidth}p{0.2\\linewidth}ll", head, axes, f"Search space of {study}.", "tab:space"),
            table(
                "lp{0.62\\linewidth}",
                (),
                [*facts, *fixed],
                f"Search protocol of {study}; fixed settings are those that differ from the defaults.",
                "tab:protocol",
            ),
        ]
    )
