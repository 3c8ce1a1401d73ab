"""The search for errors among the configurations of an operation, by hypothesis, which also shrinks them."""

import json
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from gradreg_sweep.compositions import PENALTY
from gradreg_sweep.framework import Framework
from gradreg_sweep.low_precision import judge_low
from gradreg_sweep.operation import Configuration, Operation
from gradreg_sweep.verdict import UNTRIED, Reference, Verdict, judge, load

__all__ = ["Finding", "References", "chosen", "examine"]

_UNSHOWN = ("right", "undecided", UNTRIED)
References = dict[str, Reference | Verdict]


@dataclass(frozen=True)
class Finding:
    """The result for one operation in one mode."""

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
    """Whether the operation computes in float32 inside, whatever the dtype of its arrays."""
    also: tuple[str, ...] = ()
    """Kinds seen in other configurations."""
    examples: int = 0
    configuration: dict[str, Any] = field(default_factory=dict)
    """The smallest configuration that shows it."""
    reproduction: str = ""
    """A program that shows it with the framework and NumPy only."""
    seconds: float = 0.0
    composition: str = PENALTY
    """Of the modes of differentiation, one of :data:`~gradreg_sweep.compositions.COMPOSITIONS`."""
    dtype: str = "float64"
    """The dtype asked for; without one, a few operations choose their own."""


class _ShownError(Exception):
    """Raised inside hypothesis for a configuration with the kind that is being made smaller."""


class _Search:
    """The verdicts by configuration, and the kind being made smaller."""

    def __init__(
        self,
        framework: Framework,
        operation: Operation,
        mode: str,
        composition: str,
        references: References,
        dtype: str | None = None,
    ) -> None:
        self.dtype = dtype or "float64"
        self.framework, self.operation, self.mode, self.composition = framework, operation, mode, composition
        self.references = references
        self.verdicts: dict[str, Verdict] = {}
        self.kinds: set[str] = set()
        self.smallest: dict[str, Any] | None = None

    def verdict(self, configuration: Configuration) -> Verdict:
        """The verdict on a configuration, judged once."""
        key = json.dumps(configuration, sort_keys=True)
        if key not in self.verdicts:
            dtype, plain = configuration["dtype"], self.framework.modes[0]
            low = dtype != "float64"
            data = json.dumps({**configuration, "dtype": low}, sort_keys=True)
            program = self.operation.program(configuration, self.framework.syntax)
            problem = self.framework.problem
            tested = partial(problem, program, self.mode, dtype)
            if data not in self.references:
                self.references[data] = load(partial(problem, program, plain, "float64"), low)
            if low:
                verdict = judge_low(self.references[data], tested, dtype, self.composition)
            else:
                verdict = judge(self.references[data], None if self.mode == plain else tested, self.composition)
            if self.operation.borrowed and verdict.kind == "first derivative":
                verdict = Verdict("undecided", detail="differences disagree with the first derivative already")
            self.verdicts[key] = verdict
        return self.verdicts[key]

    def body(self, configuration: dict[str, Any]) -> None:
        """One example of hypothesis."""
        verdict = self.verdict(configuration)
        if verdict.kind in _UNSHOWN:
            return
        if not self.kinds:
            # A gradient that is None is easier to understand than one that is wrong because a part of it is None.
            self.kinds = {verdict.kind} | ({"None"} if verdict.kind == "wrong" else set())
        if verdict.kind in self.kinds:
            self.smallest = configuration
            raise _ShownError

    def finding(self, seconds: float) -> Finding:
        """The result for the operation."""
        if self.smallest is None:
            bad = [key for key, verdict in self.verdicts.items() if verdict.kind not in _UNSHOWN]
            if not bad:
                return self._unshown(seconds)
            self.smallest = json.loads(min(bad, key=len))
        shown = self.verdict(self.smallest)
        kinds = {verdict.kind for verdict in self.verdicts.values()}
        compared = "wrong" if "wrong" in kinds else shown.kind
        program = self.operation.program(self.smallest, self.framework.syntax)
        return replace(
            self._unshown(seconds),
            kind=shown.kind,
            error=max((verdict.error for verdict in self.verdicts.values() if verdict.kind == compared), default=0.0),
            detail=shown.detail,
            also=tuple(sorted(kinds - {shown.kind, *_UNSHOWN})),
            configuration=dict(self.smallest),
            reproduction=self.framework.reproduction(program, self.mode, shown, self.composition),
        )

    def _unshown(self, seconds: float) -> Finding:
        """The finding if no configuration showed anything: right if at least one could be judged."""
        verdicts = self.verdicts.values()
        first = next((kind for kind in _UNSHOWN if any(verdict.kind == kind for verdict in verdicts)), UNTRIED)
        detail = next((verdict.detail for verdict in verdicts if verdict.kind == first), "")
        return Finding(
            framework=self.framework.name,
            version=self.framework.version,
            mode=self.mode,
            operation=self.operation.name,
            kind=first,
            detail=detail,
            single=any(verdict.single for verdict in verdicts),
            examples=len(verdicts),
            seconds=round(seconds, 2),
            composition=self.composition,
            dtype=self.dtype,
        )


def chosen(
    framework: Framework, mode: str, names: Sequence[str] = (), enumerated: Sequence[Operation] = ()
) -> list[Operation]:
    """The operations to run in a mode.

    Args:
        framework: the operations' own.
        mode: if it is slow, only operations that name it are chosen.
        names: parts of the names of operations, in upper or lower case; these are chosen in any mode.
        enumerated: further operations, which the framework's own modules list.
    """
    operations = [*framework.operations, *enumerated]
    if names:
        wanted = [name.lower() for name in names]
        return [op for op in operations if any(name in op.name.lower() for name in wanted)]
    plain = mode not in framework.slow
    return [op for op in operations if (plain if op.modes is None else mode in op.modes)]


def examine(
    framework: Framework,
    operation: Operation,
    mode: str,
    examples: int | None = None,
    composition: str = PENALTY,
    references: References | None = None,
    dtype: str | None = None,
) -> Finding:
    """Search the configurations of an operation; an error is shrunk and written as a program.

    Args:
        framework: the operation's.
        operation: the one to examine.
        mode: one of the framework's.
        examples: configurations to draw besides the usual one; None for the framework's number.
        composition: of the modes of differentiation.
        references: of the same operation and mode, by configuration; used, and extended.
        dtype: of the arrays; None for the operation's own, float64 for nearly all.
    """
    if examples is None:
        examples = framework.examples // (2 if mode in framework.slow else 1)
    if operation.untried:
        return Finding(framework.name, framework.version, mode, operation.name, UNTRIED, detail=operation.untried)
    start = time.perf_counter()
    if dtype is not None or composition != PENALTY:
        operation = replace(operation, dtypes={mode: (dtype or "float64",)})
    search = _Search(framework, operation, mode, composition, {} if references is None else references, dtype)
    run = given(operation.configurations(mode))(search.body)
    run = settings(
        max_examples=max(1, examples),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )(run)
    with warnings.catch_warnings(), suppress(_ShownError):
        warnings.simplefilter("ignore")  # warnings of the frameworks about deprecated operations
        # The usual configuration is judged first; an error that only it shows is kept.
        search.verdict(operation.usual(mode))
        if examples:
            run()
    return search.finding(time.perf_counter() - start)
