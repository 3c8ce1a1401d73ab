"""The one shape in which a framework is swept: a record, a class that differentiates, and a template of programs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, StrictUndefined, Template

from gradreg_sweep.compositions import PENALTY
from gradreg_sweep.operation import Operation, Program, Syntax
from gradreg_sweep.problem import Problem
from gradreg_sweep.verdict import Verdict

__all__ = ["Framework"]


@cache
def _template(text: str) -> Template:
    environment = Environment(trim_blocks=True, undefined=StrictUndefined, autoescape=False)  # noqa: S701 - Python
    return environment.from_string(text)


@dataclass(frozen=True)
class Framework:
    """A framework as the sweep drives it: raw, by its own means alone.

    Args:
        name: by which it is asked for.
        version: name and version of what computes.
        modes: ways to run. The first is the plain one.
        slow: modes that take long to compile: half as many examples, and only for the operations that name them.
        examples: configurations to draw per operation in a mode that is not slow.
        syntax: how the framework writes what stands around an operation.
        operations: what is swept.
        problem: makes a program's :class:`Problem`.
        ending: a Jinja template of the lines after the program's that show a verdict without gradreg.
        mixed_ending: the same for compositions other than that of penalties.
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
    mixed_ending: str
    enumerated: Callable[[], Iterable[Operation]] = tuple

    def reproduction(self, program: Program, mode: str, verdict: Verdict, composition: str = PENALTY) -> str:
        """The whole program that shows a verdict."""
        head = [self.syntax.imports, *([self.syntax.setting] if self.syntax.setting else [])]
        return "\n".join([*head, "", program.source(), "", self._ending(program, mode, verdict, composition), ""])

    def _ending(self, program: Program, mode: str, verdict: Verdict, composition: str) -> str:
        """The template, filled in.

        It gets the arguments of f, the target of the derivative, whether that is a variable of a layer, and the
        arguments moved by t along v. `numbers` says whether two numbers are printed, the framework's and the
        difference quotient's; otherwise what the framework returns or raises speaks for itself.
        """
        first, target = verdict.kind == "first derivative", verdict.array
        variable = target.startswith("layer.")
        wide = not first and program.configuration["dtype"] == "float32"
        moved = [self.syntax.wide.format(name=name) if wide else name for name in program.names]
        if target in program.names:
            moved[program.names.index(target)] += " + t * u" if composition != PENALTY and not first else " + t * v"
        step = "1e-2" if verdict.single and not first else "1e-4"
        mixed = composition != PENALTY and not first
        text = _template(self.mixed_ending if mixed else self.ending).render(
            composition=composition,
            arguments=", ".join(program.names),
            first=first,
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
