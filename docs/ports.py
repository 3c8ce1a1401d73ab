"""Makes the table of the page on ports by running all of them; as a script, writes it into the page."""

import sys
from pathlib import Path

PAGE = Path(__file__).with_name("ports.md")
START, END = "<!-- table -->", "<!-- end -->"


def rows() -> list[str]:
    """The table, one port per line; a port whose mistake is not detected is marked."""
    sys.path.insert(0, str(PAGE.parents[1] / "tests"))
    from instruments.validation import real_ports, real_ports_more  # noqa: F401
    from instruments.validation.test_real_ports import report_on

    titles = ("network", "to", "right port, largest ratio", "mistake", "first layer", "named")
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|---|---|---|"]
    for name, port in real_ports.PORTS.items():
        right, wrong = report_on(name, wrong=False), report_on(name, wrong=True)
        ratio = f"{max(row.ratio for row in right.rows):.1f}" if right.ok else "FALSE ALARM"
        layer = (wrong.first_divergence or "none").split(" ~ ")[0]
        named = "yes" if not wrong.ok and layer == port.layer and port.words in (wrong.cause or "") else "NO"
        lines.append(f"| {port.title} | {port.to} | {ratio} | {port.mistake} | `{layer}` | {named} |")
    return lines


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    table = "\n".join(rows())
    PAGE.write_text(f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
