"""A framework under the sweep: a record, a class that differentiates, and a template of programs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gradreg_sweep.compositions import PENALTY
from gradreg_sweep.low_program import low_program
from gradreg_sweep.operation import Operation, Program, Syntax
from gradreg_sweep.problem import Problem
from gradreg_sweep.templating import template
from gradreg_sweep.verdict import Verdict

__all__ = ["Framework"]

_MIXED = """\
v = {{ constant("rng.normal(size=x.shape)") }}
u = {{ "v" if target == "x" else constant("rng.normal(size=%s.shape)" % target) }}


{% if "forward" in composition %}
def derivative(function, array, tangent):  # forward mode
{{ forward }}

{% endif %}
def gradient(function, array):  # reverse mode
{{ reverse }}

def z({{ arguments }}):
    return {{ total("w * f(%s)" % arguments) }}


def slope({{ arguments }}):  # <J^T w, v> by reverse mode
    return {{ total("gradient(lambda x: z(%s), x) * v" % arguments) }}


{% if composition not in ("forward", "forward-reverse", "reverse-reverse-reverse") %}
def forward_slope({{ arguments }}):  # <w, J v> by forward mode
    return derivative(lambda x: z({{ arguments }}), x, v)


{% endif %}
{% if composition == "reverse-forward-forward" %}
def bend({{ arguments }}):  # the second derivative along v by forward mode
    return derivative(lambda x: forward_slope({{ arguments }}), x, v)


{% endif %}
{% if composition in ("reverse-forward-forward", "reverse-reverse-reverse") %}
def reverse_bend({{ arguments }}):  # by reverse mode
    return {{ total("gradient(lambda x: slope(%s), x) * v" % arguments) }}


{% endif %}
{% set inner, lower = {
    "forward": ("z", "z"),
    "forward-reverse": ("slope", "slope"),
    "reverse-forward": ("forward_slope", "slope"),
    "forward-forward": ("forward_slope", "slope"),
    "reverse-forward-forward": ("bend", "reverse_bend"),
    "reverse-reverse-reverse": ("reverse_bend", "reverse_bend"),
}[composition] %}
{% set inner = "lambda %s: %s(%s)" % (target, inner, arguments) %}
{% if composition.startswith("forward") %}
{% set number = "derivative(%s, %s, u)" % (inner, target) %}
{% elif kind == "None" %}
{% set number = "gradient(%s, %s)" % (inner, target) %}
{% else %}
{% set number = total("u * gradient(%s, %s)" % (inner, target)) %}
{% endif %}
{% if compiled(number) != number %}
compute = {{ compiled("lambda %s: %s" % (arguments, number)) }}
number = compute({{ arguments }})
{% else %}
number = {{ number }}
{% endif %}
{% if kind == "None" %}
print("{{ label }}: ", number)
{% else %}
ends = [{{ plain(lower ~ "(" ~ moved ~ ")") }} for t in ({{ step }}, -{{ step }})]
print("{{ label }}: ", {{ plain("number") }}, " differences:", (ends[0] - ends[1]) / {{ twice }})
{% endif %}"""


@dataclass(frozen=True)
class Framework:
    """A framework under the sweep, by its own means only.

    Args:
        name: on the command line.
        version: name and version.
        modes: ways to run. The first is the plain one.
        slow: modes that take long to compile: half as many examples, and only for the operations that name them.
        examples: configurations to draw per operation in a mode that is not slow.
        syntax: the framework's code around an operation.
        operations: those that are swept.
        problem: makes a program's :class:`Problem`.
        ending: a Jinja template of the lines after the program's that show a verdict without gradreg.
        derivatives: Jinja definitions for the same in any other composition: `label`, the bodies `forward` and
            `reverse` of functions that differentiate, and macros for a constant, a sum, a plain number, and a function
            compiled as the mode says.
        missing: mode -> compositions that the framework lacks there.
        enumerated: lists further operations, from the framework's own modules; it may take a minute.
    """

    name: str
    version: str
    modes: tuple[str, ...]
    slow: tuple[str, ...]
    examples: int
    syntax: Syntax
    operations: tuple[Operation, ...]
    problem: Callable[[Program, str, str], Problem]
    ending: str
    derivatives: str
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    enumerated: Callable[[], Iterable[Operation]] = tuple

    def modes_for(self, composition: str) -> tuple[str, ...]:
        """The modes that offer a composition, the plainest first."""
        return tuple(mode for mode in self.modes if composition not in self.missing.get(mode, ()))

    def reproduction(self, program: Program, mode: str, verdict: Verdict, composition: str = PENALTY) -> str:
        """The whole program that shows a verdict."""
        if program.low:
            return low_program(self.syntax, self.derivatives, program, mode, verdict, composition)
        head = [self.syntax.imports, *([self.syntax.setting.format(on=True)] if self.syntax.setting else [])]
        return "\n".join([*head, "", program.source(), "", self._ending(program, mode, verdict, composition), ""])

    def _ending(self, program: Program, mode: str, verdict: Verdict, composition: str) -> str:
        """The template, filled in.

        It gets the arguments of f, the target of the derivative, whether that is a variable of a layer, and the
        arguments moved by t along v. `numbers` says whether two numbers are printed, the framework's and the
        difference quotient's; otherwise the program prints what the framework returns, or raises.
        """
        first, target = verdict.kind == "first derivative", verdict.array
        variable = target.startswith("layer.")
        moved = list(program.names)
        if target in program.names:
            moved[program.names.index(target)] += " + t * u" if composition != PENALTY and not first else " + t * v"
        step = "1e-2" if verdict.single and not first else "1e-4"
        mixed = composition != PENALTY and not first
        text = template(self.derivatives + _MIXED if mixed else self.ending).render(
            composition=composition,
            arguments=", ".join(program.names),
            first=first,
            kind=verdict.kind,
            index=None if variable else program.names.index(target),
            mode=mode,
            moved=", ".join(moved),
            numbers=verdict.detail in ("", "NaN") if first else verdict.kind not in ("raises", "None", "NaN"),
            step=step,
            target=self.syntax.variable.format(index=target.partition(".")[2]) if variable else target,
            twice=f"{2 * float(step):g}",
            variable=variable,
        )
        return text.rstrip()
