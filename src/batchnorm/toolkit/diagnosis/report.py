"""How a diagnosis is shown: as text, as a table, as JSON, in a notebook, and as an exit code."""

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from batchnorm import markup
from batchnorm.files import json_ready
from batchnorm.printing import printable
from batchnorm.results import Result
from batchnorm.toolkit.diagnosis.evidence import Evidence
from batchnorm.toolkit.diagnosis.finding import Finding, Severity
from batchnorm.toolkit.diagnosis.gap import Gap

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class LayerReport:
    """What was measured of one layer.

    Parameters
    ----------
    name, kind : str
        Its qualified name, and its class's.
    channels : int
    shift, largest_shift : float or None
        How far running means are from those of the population, in standard deviations: root mean square over the
        channels, and maximum. None where one of the two is missing.
    variance_factor, largest_variance_factor : float or None
        By which factor variances are off, in either direction: median over the channels, and maximum.
    damage, share : float or None
        By how much its running statistics alone make the model worse than its population statistics do; and its part
        of the damage of all layers. None where there is no gap.
    estimated : bool
        Whether these two are estimates to first order: of many layers the few that matter most are measured.
    """

    name: str
    kind: str
    channels: int
    shift: float | None
    largest_shift: float | None
    variance_factor: float | None
    largest_variance_factor: float | None
    damage: float | None
    share: float | None
    estimated: bool

    @classmethod
    def of(cls, evidence: Evidence, gap: Gap | None) -> Self:
        """Sum up what is known of a layer."""
        found = evidence.comparison
        return cls(
            name=evidence.name,
            kind=type(evidence.layer).__name__,
            channels=evidence.channels,
            shift=found.typical_shift if found else None,
            largest_shift=found.largest_shift if found else None,
            variance_factor=found.typical_factor if found else None,
            largest_variance_factor=found.largest_factor if found else None,
            damage=gap.damage.get(evidence.name) if gap else None,
            share=gap.share(evidence.name) if gap else None,
            estimated=gap is not None and evidence.name in gap.estimated,
        )


@dataclass(frozen=True)
class Diagnosis(Result):
    """What `diagnose` found.

    Prints as text; in a notebook it shows itself as a table; ``rich.print(diagnosis)`` prints a table in colour.

    Parameters
    ----------
    findings : tuple of Finding
        What is wrong, in the order of execution. Empty for a healthy model.
    layers : tuple of LayerReport
        All batch-norm layers.
    gap : Gap or None
        The gap between running and population statistics in the model's output or loss, and what each layer has to do
        with it. None where outputs could not be compared; then a note says why.
    unreached : tuple of str
        Layers that no batch reached: of them only the state is known.
    notes : tuple of str
        What could not be looked at.
    not_looked_at : dict of str to str
        Names and classes of modules that normalise with running statistics and are no batch-norm layers, and of layers
        whose statistics are used past their call. A note says so, too.
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerReport, ...]
    gap: Gap | None
    unreached: tuple[str, ...]
    notes: tuple[str, ...]
    not_looked_at: dict[str, str] = field(default_factory=dict)

    @property
    def attribution(self) -> Gap | None:
        """The same as `gap`: its former name, kept for those who use it."""
        return self.gap

    @property
    def exit_code(self) -> int:
        """What a process that is to fail on findings exits with: 0 if there are none, else 3, which no error has."""
        return 3 if self.findings else 0

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows. Infinite and NaN become None."""
        gap = None
        if self.gap is not None:
            gap = asdict(self.gap) | {"gap": self.gap.gap}
            del gap["damage"], gap["estimated"]  # each layer has its own
        content = {
            "findings": [asdict(finding) for finding in self.findings],
            "layers": [asdict(layer) for layer in self.layers],
            "gap": gap,
            "unreached": list(self.unreached),
            "notes": list(self.notes),
            "not_looked_at": self.not_looked_at,
        }
        return {key: json_ready(value) for key, value in content.items()}

    def __str__(self) -> str:
        lines = [self.summary]
        for finding in self.findings:
            lines.append(f"{finding.severity}: {_shown(finding.layer)}: {finding.cause}: {printable(finding.why)}")
            lines.append(f"    → {printable(finding.remedy)}")
        return "\n".join([*lines, *map(printable, self._remarks())])

    @property
    def summary(self) -> str:
        """One line: how many layers, how many findings, how large the gap is."""
        n = len(self.layers)
        layers = "1 batch-norm layer" if n == 1 else f"{n} batch-norm layers"
        kinds = [finding.severity for finding in self.findings]
        counts = [
            f"{kinds.count(kind)} {kind}{'s' if kinds.count(kind) > 1 else ''}"
            for kind in ("error", "warning")
            if kind in kinds
        ]
        nothing = f"nothing wrong was found{' in what was looked at' if self.not_looked_at else ''}"
        if self.gap and self.gap.unexplained():
            nothing = "no layer is at fault by itself"
        return f"{layers}: {' and '.join(counts) or nothing}{self._gap_in_words()}"

    def _gap_in_words(self) -> str:
        gap = self.gap
        if gap is None:
            return ""
        if gap.kind == "loss":
            return (
                f"; loss {gap.running:.4g} with running, {gap.population:.4g} with population statistics, "
                f"{gap.batch:.4g} normalising by the batch"
            )
        return (
            f"; outputs with running statistics are {_percent(gap.running)} off those with population statistics, "
            f"normalising by the batch {_percent(gap.batch)}"
        )

    def _remarks(self) -> list[str]:
        remarks = list(self.notes)
        if self.unreached:
            remarks.append(f"never reached by these batches: {', '.join(map(_shown, self.unreached))}")
        return remarks

    def _rows(self) -> list[tuple[LayerReport, list[str], list[Finding]]]:
        """Return for each layer its cells, and what was found."""
        rows = []
        for layer in self.layers:
            found = [finding for finding in self.findings if finding.layer == layer.name]
            cells = [
                _shown(layer.name),
                layer.kind,
                str(layer.channels),
                _number(layer.shift),
                _number(layer.variance_factor),
                "" if layer.share is None else f"{'≈ ' * layer.estimated}{layer.share:.0%}",
                ", ".join(finding.cause for finding in found),
            ]
            rows.append((layer, cells, found))
        return rows

    def __rich__(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for column, justify in _COLUMNS.items():
            table.add_column(column, justify=justify, overflow="fold")
        for _, cells, found in self._rows():
            table.add_row(*(Text(printable(cell)) for cell in cells), style=_colour(found))
        texts = [
            Text.assemble(
                (finding.severity, _COLOURS[finding.severity]),
                " ",
                (_shown(finding.layer), "bold"),
                f": {finding.cause}: {printable(finding.why)}\n    → {printable(finding.remedy)}",
            )
            for finding in self.findings
        ]
        remarks = [Text(printable(remark)) for remark in self._remarks()]
        return Group(table, "", Text(self.summary, "bold"), *texts, *remarks)

    def _repr_html_(self) -> str:
        return self._page(markup.MOST_ROWS)

    def to_html(self) -> str:
        """Return the report as a piece of HTML, without scripts or a style sheet."""
        return self._page(max(len(self.findings), len(self.layers)))

    def _page(self, most: int) -> str:
        """Return the report with so many findings and layers at most: those with something found before the others."""
        rows = self._rows()
        shown = {id(layer) for layer, *_ in sorted(rows, key=lambda row: not row[2])[:most]}
        layers = markup.table(
            list(_COLUMNS),
            [cells for layer, cells, _ in rows if id(layer) in shown],
            words=[column for column, justify in _COLUMNS.items() if justify == "left"],
            marked=[bool(found) for layer, _, found in rows if id(layer) in shown],
            most=most,
        )
        findings = [_item(finding) for finding in self.findings[:most]]
        left_out = [
            markup.element("p", f"… {n:,} more {what}: print it")
            for n, what in ((len(self.findings) - most, "findings"), (len(rows) - most, "layers"))
            if n > 0
        ]
        text = "\n".join([self.summary, *self._remarks()])
        return markup.html(*markup.lines(text), markup.element("ul", *findings), *left_out, layers)


_COLUMNS: dict[str, Literal["left", "right"]] = {
    "layer": "left",
    "kind": "left",
    "channels": "right",
    "mean off by (σ)": "right",
    "variance off by (×)": "right",
    "of the gap": "right",
    "found": "left",
}
_COLOURS: dict[Severity, str] = {"error": "red", "warning": "yellow"}  # the worst first


def _item(finding: Finding) -> markup.Element:
    what = f": {finding.severity}: {finding.cause}: {printable(finding.why)}"
    name, remedy = markup.element("b", _shown(finding.layer)), markup.element("code", printable(finding.remedy))
    return markup.element("li", name, what, markup.element("br"), "→ ", remedy)


def _shown(name: str) -> str:
    """Return what a layer is called: of one that is the model itself the name is empty."""
    return printable(name) or "(the model)"


def _colour(found: list[Finding]) -> str | None:
    """Return the colour of the worst that was found."""
    severities = [finding.severity for finding in found]
    return next((colour for severity, colour in _COLOURS.items() if severity in severities), None)


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "infinitely"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
