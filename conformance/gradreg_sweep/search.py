"""Hypothesis over the configurations of an operation: what is wrong with it, in the smallest example."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, given, settings

from gradreg_sweep.operation import Configuration, Operation, Program, Syntax
from gradreg_sweep.verdict import Problem, Verdict, judge

__all__ = ["Finding", "Framework", "chosen", "examine", "reproduction"]


class Framework(Protocol):
    """A framework as the sweep drives it: raw, by its own means alone."""

    name: str
    title: str
    """As it calls itself."""
    modes: Sequence[str]
    """The first is the plain one."""
    examples: int
    """Configurations to draw of each operation in a mode that is not slow."""
    slow: Sequence[str]
    """Modes that compile for long: half as many examples, and only for the operations that name them."""
    syntax: Syntax
    operations: Sequence[Operation]

    def version(self) -> str:
        """Name and version of what computes."""
        ...

    def problem(self, program: Program, mode: str, dtype: str) -> Problem:
        """The program in a mode and dtype; gradients are always of what `mode` computes, values are in eager mode."""
        ...

    def ending(self, program: Program, mode: str, verdict: Verdict) -> str:
        """Lines after the program's that show the verdict without gradreg."""
        ...


@dataclass(frozen=True)
class Finding:
    """What became of one operation in one mode."""

    framework: str
    version: str
    mode: str
    operation: str
    kind: str
    """One of :data:`~gradreg_sweep.verdict.KINDS`."""
    error: float = 0.0
    """The largest relative error over all examples."""
    detail: str = ""
    single: bool = False
    """Whether the operation computes in float32 inside, so that float64 arrays give no more than that."""
    also: tuple[str, ...] = ()
    """Kinds seen in other configurations."""
    examples: int = 0
    configuration: dict[str, Any] = field(default_factory=dict)
    """The smallest that shows it."""
    reproduction: str = ""
    """A program that shows it by the framework and NumPy alone."""
    seconds: float = 0.0


class _Shown(Exception):  # noqa: N818 - no error
    """Raised inside hypothesis for a configuration with the kind that is being made smaller."""


class _Search:
    """The verdicts by configuration, and the kind being made smaller."""

    def __init__(self, framework: Framework, operation: Operation, mode: str) -> None:
        self.framework, self.operation, self.mode = framework, operation, mode
        self.verdicts: dict[str, Verdict] = {}
        self.kinds: set[str] = set()
        self.smallest: dict[str, Any] | None = None

    def verdict(self, configuration: Configuration) -> Verdict:
        """Judged once for each configuration."""
        key = json.dumps(configuration, sort_keys=True)
        if key not in self.verdicts:
            dtype = configuration["dtype"]
            program = Program(self.operation, configuration, self.framework.syntax)
            plain = self.framework.modes[0]
            tested = None
            if (self.mode, dtype) != (plain, "float64"):
                tested = lambda: self.framework.problem(program, self.mode, dtype)  # noqa: E731
            self.verdicts[key] = judge(
                lambda: self.framework.problem(program, plain, "float64"), tested, dtype == "float32"
            )
        return self.verdicts[key]

    def body(self, configuration: dict[str, Any]) -> None:
        """One example of hypothesis."""
        verdict = self.verdict(configuration)
        if verdict.kind in ("right", "undecided"):
            return
        if not self.kinds:
            # A gradient that is None is the simpler sight of one that is wrong because a part of it is None.
            self.kinds = {verdict.kind} | ({"None"} if verdict.kind == "wrong" else set())
        if verdict.kind in self.kinds:
            self.smallest = configuration
            raise _Shown


def chosen(framework: Framework, mode: str, names: Sequence[str] = ()) -> list[Operation]:
    """The operations to run in a mode.

    Args:
        framework: whose.
        mode: if it is slow, only operations that name it are chosen.
        names: parts of the names of operations, in upper or lower case; these are chosen in whatever mode.
    """
    if names:
        wanted = [each.lower() for each in names]
        return [each for each in framework.operations if any(name in each.name.lower() for name in wanted)]
    plain = mode not in framework.slow
    return [each for each in framework.operations if (mode in each.modes if each.modes is not None else plain)]


def examine(framework: Framework, operation: Operation, mode: str, examples: int | None = None) -> Finding:
    """Search the configurations of an operation; what is found is shrunk, and printed as a program.

    Args:
        framework: the operation's.
        operation: which.
        mode: how it is run.
        examples: configurations to draw, beside the usual one; None for what suits the mode.
    """
    if examples is None:
        examples = framework.examples // (2 if mode in framework.slow else 1)
    start = time.perf_counter()
    search = _Search(framework, operation, mode)
    run = given(operation.configurations(mode))(search.body)
    run = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )(run)
    try:
        # The usual configuration comes as a drawn one would, so that it is made smaller too.
        search.verdict(operation.usual(mode))
        run()
    except _Shown:
        pass
    return _finding(search, time.perf_counter() - start)


def _finding(search: _Search, seconds: float) -> Finding:
    framework, verdicts = search.framework, search.verdicts
    common = {
        "framework": framework.name,
        "version": framework.version(),
        "mode": search.mode,
        "operation": search.operation.name,
        "examples": len(verdicts),
        "single": any(each.single for each in verdicts.values()),
        "seconds": round(seconds, 2),
    }
    kinds = {each.kind for each in verdicts.values()}
    if search.smallest is None:
        bad = [(key, each) for key, each in verdicts.items() if each.kind not in ("right", "undecided")]
        if not bad:
            told = next((each.detail for each in verdicts.values() if each.kind == "undecided"), "")
            decided = "right" in kinds
            return Finding(kind="right" if decided else "undecided", detail="" if decided else told, **common)
        search.smallest = json.loads(min(bad, key=lambda each: len(each[0]))[0])
    shown = search.verdict(search.smallest)
    alike = [each for each in verdicts.values() if each.kind == "wrong"]
    alike = alike or [each for each in verdicts.values() if each.kind == shown.kind]
    program = Program(search.operation, search.smallest, framework.syntax)
    return Finding(
        kind=shown.kind,
        error=max((each.error for each in alike), default=0.0),
        detail=shown.detail,
        also=tuple(sorted(kinds - {shown.kind, "right", "undecided"})),
        configuration=dict(search.smallest),
        reproduction=reproduction(framework, program, search.mode, shown),
        **common,
    )


def reproduction(framework: Framework, program: Program, mode: str, verdict: Verdict) -> str:
    """The whole program that shows a verdict."""
    head = [framework.syntax.imports, *([framework.syntax.setting] if framework.syntax.setting else [])]
    return "\n".join([*head, "", program.source(), "", framework.ending(program, mode, verdict), ""])
