"""Programs that show what goes wrong in a dtype below float64: the same lines in both, and differences in float64.

A compiled mode compiles in the lower dtype only: a few kernels do not take float64.
"""

from textwrap import indent

from gradreg_sweep.operation import Program, Syntax
from gradreg_sweep.precision import ROUNDED
from gradreg_sweep.templating import template
from gradreg_sweep.verdict import Verdict

__all__ = ["low_program"]

_ANY = "ANY"
"""In place of a dtype in the lines of a program."""
_DERIVATIVES = """\
{% if "forward" in composition and kind != "first derivative" %}
def derivative(function, array, tangent):  # forward mode
{{ forward }}

{% endif %}
def gradient(function, array):  # reverse mode
{{ reverse }}

"""
_NUMBER = """\
v = {{ typed("rounded(rng.normal(size=x.shape))") }}
u = {{ "v" if target == "x" else typed("rounded(rng.normal(size=%s.shape))" % target) }}
{% set moved = "_" if variable else target %}
{% if same %}
{{ same }}
{% endif %}


def z({{ arguments }}):
    return {{ total("w * f(%s)" % arguments) }}


{% if kind == "first derivative" %}
{% set number = "gradient(lambda x: z(%s), x)" % arguments %}
{% set number = total("v * " ~ number) if numbers else number %}
{% else %}
{% if composition == "reverse-reverse" %}
def inner({{ arguments }}):  # ||J^T w||^2
    return {{ total("gradient(lambda x: z(%s), x) ** 2" % arguments) }}


{% elif composition in ("forward-reverse", "reverse-reverse-reverse") %}
def inner({{ arguments }}):  # <J^T w, v> by reverse mode
    return {{ total("gradient(lambda x: z(%s), x) * v" % arguments) }}


{% elif composition == "forward" %}
inner = z


{% else %}
def inner({{ arguments }}):  # <w, J v> by forward mode
    return derivative(lambda x: z({{ arguments }}), x, v)


{% endif %}
{% if composition == "reverse-forward-forward" %}
def third({{ arguments }}):  # the second derivative along v by forward mode
    return derivative(lambda x: inner({{ arguments }}), x, v)


{% elif composition == "reverse-reverse-reverse" %}
def third({{ arguments }}):  # the second derivative along v by reverse mode
    return {{ total("gradient(lambda x: inner(%s), x) * v" % arguments) }}


{% endif %}
{% set last = "lambda %s: %s(%s)" % (moved, "third" if composition.count("-") == 2 else "inner", arguments) %}
{% if composition.startswith("forward") %}
{% set number = "derivative(%s, %s, u)" % (last, target) %}
{% else %}
{% set number = "gradient(%s, %s)" % (last, target) %}
{% set number = total("u * " ~ number) if numbers else number %}
{% endif %}
{% endif %}
{% if compiled(number) != number %}
compute = lambda {{ arguments }}: {{ number }}
if dtype != {{ high }}:
    compute = {{ compiled("compute") }}
number = compute({{ arguments }})
{% else %}
number = {{ number }}
{% endif %}
print(f"{dtype}: ", {{ plain("number") if numbers else "number" }})
{% if numbers and not variable %}
{% set function = "z" if kind == "first derivative" else "third" if composition.count("-") == 2 else "inner" %}
if dtype == {{ high }}:
    ends = [{{ plain("%s(%s)" % (function, ends)) }} for t in (1e-4, -1e-4)]
    print("differences: ", (ends[0] - ends[1]) / 2e-4)
{% endif %}"""


def low_program(
    syntax: Syntax, derivatives: str, program: Program, mode: str, verdict: Verdict, composition: str
) -> str:
    """The whole program that shows a verdict in a dtype below float64.

    Args:
        syntax: the framework's.
        derivatives: the framework's definitions in Jinja.
        program: in that dtype.
        mode: of the framework.
        verdict: what it shows.
        composition: of the modes of differentiation.
    """
    low, high, any_dtype = (
        syntax.dtype.format(dtype=dtype) for dtype in (program.configuration["dtype"], "float64", _ANY)
    )
    variable = verdict.array.startswith("layer.")
    target = syntax.variable.format(index=verdict.array.partition(".")[2]) if variable else verdict.array
    tangent = "v" if verdict.kind == "first derivative" else "u"
    values = {
        "arguments": ", ".join(program.names),
        "ends": ", ".join(f"{name} + t * {tangent}" if name == target else name for name in program.names),
        "high": high,
        "composition": composition,
        "kind": verdict.kind,
        "mode": mode,
        "numbers": verdict.kind != "None" and verdict.detail != "None",
        "same": syntax.same.format(first=low) if "layer =" in program.operation.setup else "",
        "target": target,
        "variable": variable,
    }
    setting = [syntax.setting.format(on=f"dtype == {high}")] if syntax.setting else []
    body = [*setting, program.source(_ANY).replace(any_dtype, "dtype"), template(derivatives + _NUMBER).render(values)]
    lines = [syntax.imports, "", "", ROUNDED, "", "", template(derivatives + _DERIVATIVES).render(values).rstrip()]
    return "\n".join([*lines, "", "", f"for dtype in ({low}, {high}):", indent("\n".join(body), "    "), ""])
