"""Report wording of docs/words.txt, and long lines of Markdown: `python tools/check_words.py [--counts] [PATH …]`.

Of Python files only comments, docstrings and string literals with a space are read, of Markdown all but code. The exit
status is 1 if there is a report.
"""

import argparse
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MAX_WIDTH = 120  # but for tables, code and the notes that benchmarks write below their tables ("Cells of …")
WORD_LIST = Path("docs/words.txt")
NOT_PROSE = ("docs/words.txt", "tools/check_words.py")
DOCSTRING_FOLLOWS = {
    tokenize.ENCODING,
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
}
STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
CODE_OF_MARKDOWN = re.compile(r"^```.*?^```|^    [^\n]*|`[^`]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)


def read_rules() -> list[tuple[re.Pattern[str], bool, str]]:
    """Return (pattern, whether for docstring summaries only, what to write instead) of each line of the word list."""
    rules = []
    for line in WORD_LIST.read_text().splitlines():
        if line and not line.startswith("#"):
            phrase, advice = line.split(" => ")
            body = phrase.removeprefix("summary: ").replace(" ", r"\s+")
            start = r"\A\w{0,2}[\"']+" if phrase.startswith("summary: ") else ""
            edge = "" if phrase.startswith("(?<") else r"\b"
            rules.append((re.compile(f"{start}{edge}(?P<hit>{body}){edge}", re.IGNORECASE), bool(start), advice))
    return rules


def texts_of_python(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, text, whether a docstring) of every comment, docstring and string literal with a space."""
    previous, depth = tokenize.ENCODING, 0  # depth of brackets
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        depth += (token.string in {"(", "[", "{"}) - (token.string in {")", "]", "}"})
        docstring = token.type == tokenize.STRING and previous in DOCSTRING_FOLLOWS and depth == 0
        if token.type == tokenize.COMMENT or docstring or (token.type in STRINGS and " " in token.string):
            yield token.start[0], re.sub(r"`[^`\n]*`|\{[^{}\n]*\}", _blank, token.string), docstring
        previous = token.type


def _blank(code: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", code[0])


def reports(path: Path, rules: list[tuple[re.Pattern[str], bool, str]]) -> Iterator[str]:
    """Yield one line per wording or long line in a file."""
    source = path.read_text()
    if path.suffix == ".md":
        texts = iter([(1, CODE_OF_MARKDOWN.sub(_blank, source), False)])
        for number, line in enumerate(source.splitlines(), 1):
            if len(line) > MAX_WIDTH and " " in line.strip() and not line.startswith(("|", "[![", "    ", "Cells of ")):
                yield f"{path}:{number}: {len(line)} characters => at most {MAX_WIDTH}"
    else:
        texts = texts_of_python(source)
    for start, text, docstring in texts:
        for pattern, summary_only, advice in rules:
            if docstring or not summary_only:
                for match in pattern.finditer(text):
                    line = start + text.count("\n", 0, match.start("hit"))
                    yield f"{path}:{line}: {' '.join(match['hit'].split())} => {advice}"


def main() -> int:
    """Print the reports on the named files or folders (all tracked ones by default), or their number per folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("paths", nargs="*", default=["."])
    parser.add_argument("--counts", action="store_true", help="print the number of reports per folder")
    arguments = parser.parse_args()
    listed = subprocess.run(["git", "ls-files", "-z", *arguments.paths], capture_output=True, text=True, check=True)
    names = [n for n in listed.stdout.split("\0") if n.endswith((".py", ".md")) and n not in NOT_PROSE]
    rules = read_rules()
    reported = {name: list(reports(Path(name), rules)) for name in names if Path(name).exists()}
    if arguments.counts:
        per_folder: Counter[str] = Counter()
        for name, lines in reported.items():
            per_folder[str(Path(name).parent)] += len(lines)
        for folder, number in sorted(per_folder.items()):
            print(f"{number:5}  {folder}")
    else:
        print("\n".join(line for lines in reported.values() for line in lines))
    total = sum(len(lines) for lines in reported.values())
    print(f"{total:5}  in all", file=sys.stderr)
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
