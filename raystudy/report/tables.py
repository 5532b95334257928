"""A comparison -> the tables of its page. Knows nothing about HTML; every cell is text taken from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raystudy.report.cells import Cell, Footnotes, figure_cell, words
from raystudy.report.wording import (
    DASH,
    counted,
    flops,
    highest_by_metric,
    lr,
    named,
    number,
    primary_metric,
    scored_weights,
    seconds,
    settings,
    unit_of,
)

Comparison = Mapping[str, Any]
Entry = Mapping[str, Any]
REGRET_DIGITS = 3
LOSS_DIGITS = 4

_GUARD_FLAGS = {
    "barely_trained": "unigram floor",
    "edge": "grid edge",
    "diverged": "diverged",
    "repeated": "repeated data",
    "leaked": "validation text",
    "unpaired": "unpaired",
}
GUARD_WORDS = {
    "barely_trained": "not below the unigram floor",
    "edge": "on the grid's edge",
    "diverged": "diverged",
    "repeated": "repeats data",
    "leaked": "holds validation text",
    "unpaired": "starts or is fed unlike the others",
}


@dataclass
class Table:
    """Rows of cells, the first of each its row's header; columns may have a smaller line below their name."""

    anchor: str
    caption: str
    columns: list[tuple[str, str]]
    rows: list[list[Cell]] = field(default_factory=list)
    footnotes: Footnotes = field(init=False)

    def __post_init__(self) -> None:
        """Footnotes are the table's own."""
        self.footnotes = Footnotes(self.anchor)


def primary_entries(comparison: Comparison) -> list[Entry]:
    """Entries of the primary metric, in the study's order."""
    primary = primary_metric(comparison)
    return [entry for entry in comparison["comparisons"] if entry["metric"] == primary]


def protocol_table(comparison: Comparison) -> Table:
    """Agreement and cost of every candidate, headline recipes, primary metric."""
    entries = primary_entries(comparison)
    ks = sorted({int(k) for entry in entries for k in entry["regret"]})
    table = Table(
        "protocols",
        "Agreement of each protocol with the truth (primary metric, headline recipes)",
        [
            ("Protocol", ""),
            ("LR", ""),
            ("Spearman", "[95%]"),
            ("Kendall τ\u2011b", "[95%]"),
            ("Decision accuracy", "[95%]"),
            ("Separable pairs", "accuracy [95%]"),
            *((f"Regret@{k}", f"best of k, {unit_of(comparison)}") for k in ks),
            ("Cost", "FLOPs, device-seconds"),
            ("Flags", "number of recipes"),
        ],
    )
    for entry in entries:
        notes, marks = entry["notes"], table.footnotes
        separable = entry["separable_decision_accuracy"]
        pairs = (counted(separable["num_pairs"], "pair"), separable["separability"])
        cells = [words(entry["candidate"], *_about(entry)), Cell(lr(entry["lr"]), settings(entry.get("settings")))]
        cells += [figure_cell(entry, n, notes, marks) for n in ("spearman", "kendall_tau_b", "decision_accuracy")]
        cells.append(figure_cell(entry, "separable_decision_accuracy", notes, marks, extra=pairs))
        cells += [_regret(entry, k, "best_of_k", notes, marks) for k in ks]
        cost = entry["cost"]
        cells += [Cell(flops(cost["flops"]), (f"{seconds(cost['device_seconds'])} s",)), _flags(entry)]
        table.rows.append(cells)
    return table


def _regret(figures: Mapping[str, Any], k: int, kind: str, notes: Any, marks: Footnotes) -> Cell:
    if str(k) not in figures["regret"]:
        return Cell(DASH, (), marks.mark(f"no regret@{k} in the comparison"))
    return figure_cell(figures, f"regret.{k}.{kind}", notes, marks, digits=REGRET_DIGITS)


def _about(entry: Entry) -> list[str]:
    model = "" if entry["model"] is None else f", {entry['model']}"
    lines = [f"{entry['kind']}{model}", f"{counted(entry['num_seeds'], 'seed')}, {entry['runs_per_score']} per score"]
    lines += [] if entry["lr_rule"] is None else [f"LR: {entry['lr_rule']}"]
    return lines + scored_weights(entry)


def _flags(entry: Entry) -> Cell:
    guards = entry["guards"]
    flags = [f"{text}: {len(guards[guard])}" for guard, text in _GUARD_FLAGS.items() if guards.get(guard)]
    if entry["num_diverged"]:
        flags.append(f"{counted(entry['num_diverged'], 'run')} diverged")
    if entry["excluded"]:
        flags.append(f"left out: {len(entry['excluded'])}")
    return words("" if flags else "none", *flags)


def subset_table(comparison: Comparison) -> Table:
    """The headline beside the same figures with controls, and over near-ties only."""
    entries = primary_entries(comparison)
    names = ["headline", *dict.fromkeys(name for entry in entries for name in entry["subsets"])]
    figures = {"Spearman": "spearman", "Decision accuracy": "decision_accuracy", "Regret@1": "regret.1.best_of_k"}
    columns = [(title, f"{name}, {_num_recipes(entries, name)}") for title in figures for name in names]
    caption = "The headline beside other sets of recipes (primary metric)"
    table = Table("subsets", caption, [("Protocol", ""), *columns])
    for entry in entries:
        cells = [words(entry["candidate"])]
        cells += [_subset_cell(entry, name, path, table.footnotes) for path in figures.values() for name in names]
        table.rows.append(cells)
    return table


def _subset(entry: Entry, name: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = entry if name == "headline" else entry["subsets"].get(name)
    return found


def _subset_cell(entry: Entry, name: str, path: str, marks: Footnotes) -> Cell:
    figures = _subset(entry, name)
    if figures is None:
        return Cell(DASH, (), marks.mark(f"no figures for {name} in the comparison"))
    if path.startswith("regret"):
        return _regret(figures, 1, "best_of_k", figures["notes"], marks)
    return figure_cell(figures, path, figures["notes"], marks)


def _num_recipes(entries: Sequence[Entry], name: str) -> str:
    counts = [figures["num_recipes"] for entry in entries if (figures := _subset(entry, name)) is not None]
    if not counts:
        return "no recipes"
    return f"{min(counts)} recipes" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} recipes"


def further_table(comparison: Comparison) -> Table:
    """Headline figures that the first table has no room for."""
    entries = primary_entries(comparison)
    ks = sorted({int(k) for entry in entries for k in entry["regret"]})
    regrets = [(f"Regret@{k}", f"mean of k, {unit_of(comparison)}") for k in ks]
    columns = [("Protocol", ""), ("Pearson", "[95%]"), *regrets]
    table = Table("further", "Further figures of the headline recipes (primary metric)", columns)
    for entry in entries:
        cells = [words(entry["candidate"]), figure_cell(entry, "pearson", entry["notes"], table.footnotes)]
        cells += [_regret(entry, k, "mean_of_k", entry["notes"], table.footnotes) for k in ks]
        table.rows.append(cells)
    return table


def tuned_table(comparison: Comparison) -> Table:
    """The truth's sweep: tuned loss per recipe with its flags, lowest first."""
    table = Table(
        "tuned",
        "Tuned loss of each recipe, lowest first",
        [
            ("Recipe", ""),
            ("Tuned loss", f"± standard error, {unit_of(comparison)}"),
            ("Best LR", ""),
            ("Grid edge", ""),
            ("Nearest recipe", ""),
            ("Chosen and scored", "on"),
            ("Diverged at", "LR"),
            ("Unigram floor", unit_of(comparison)),
            ("Trigram floor", unit_of(comparison)),
        ],
    )
    controls = {recipe["name"] for recipe in comparison["recipes"] if recipe["control"]}
    rows = comparison["tuned_losses"]
    for row in sorted(rows, key=lambda row: float("inf") if row["loss"] is None else row["loss"]):
        table.rows.append(_tuned_row(row, table.footnotes, row["recipe"] in controls))
    return table


def _tuned_row(row: Mapping[str, Any], marks: Footnotes, is_control: bool) -> list[Cell]:
    error = row["standard_error"]
    if row["loss"] is None:
        loss = Cell(DASH, (), marks.mark("no learning rate has a finite loss for every seed, or the sweep is not done"))
    elif error is None:
        loss = Cell(number(row["loss"], LOSS_DIGITS), (), marks.mark("a standard error needs two seeds or more"))
    else:
        loss = Cell(number(row["loss"], LOSS_DIGITS), (f"± {number(error, LOSS_DIGITS)}",))
    return [
        words(row["recipe"], *(["control"] if is_control else [])),
        loss,
        Cell(lr(row["best_lr"]), settings(row.get("best_settings"))),
        words("no" if row["edge"] is None else f"{row['edge']} edge: not tuned"),
        words("within seed noise" if row["noisy"] else "apart"),
        words("the same seeds: optimistic" if row["optimistic"] else "separate seeds"),
        words(", ".join(lr(value) for value in row["diverged_lrs"]) or "none"),
        Cell(number(row["unigram_loss"], LOSS_DIGITS)),
        Cell(number(row.get("trigram_loss"), LOSS_DIGITS)),
    ]


def validation_table(comparison: Comparison) -> Table:
    """Spearman of every candidate on every metric; the highest of each metric marked."""
    entries = {(entry["candidate"], entry["metric"]): entry for entry in comparison["comparisons"]}
    metrics = list(dict.fromkeys(metric for _, metric in entries))
    highest = highest_by_metric(comparison["comparisons"])
    primary = primary_metric(comparison)
    names = [(metric.removeprefix("loss/"), "primary" if metric == primary else "") for metric in metrics]
    table = Table(
        "validation",
        "Spearman with the truth by validation set (▲ highest of its column)",
        [("Protocol", ""), *names],
    )
    for candidate in dict.fromkeys(candidate for candidate, _ in entries):
        cells = [words(candidate)]
        for metric in metrics:
            entry = entries.get((candidate, metric))
            if entry is None:
                cells.append(Cell(DASH, (), table.footnotes.mark("no scores on this validation set")))
                continue
            is_highest = candidate in highest[metric]
            cells.append(figure_cell(entry, "spearman", entry["notes"], table.footnotes, is_marked=is_highest))
        table.rows.append(cells)
    return table


def guard_table(comparison: Comparison) -> Table:
    """Which recipes the guards of the primary metric name."""
    table = Table(
        "guards", "Scores that should not be taken at face value", [("Protocol", ""), ("Guard", ""), ("Recipes", "")]
    )
    for entry in primary_entries(comparison):
        for guard, text in GUARD_WORDS.items():
            if entry["guards"].get(guard):
                names = [named(recipe) for recipe in entry["guards"][guard]]
                table.rows.append([words(entry["candidate"]), words(text), words(", ".join(names))])
    return table


def recipe_table(comparison: Comparison) -> Table:
    """What was compared."""
    table = Table(
        "recipe-list",
        "The recipes",
        [("Recipe", ""), ("Dimension", ""), ("Family", ""), ("Control", ""), ("Description", "")],
    )
    for recipe in comparison["recipes"]:
        control = "control" if recipe["control"] else "no"
        fields = (recipe["dimension"], recipe["family"], control, recipe["description"])
        table.rows.append([words(recipe["name"]), *(words(str(text or DASH)) for text in fields)])
    return table


def missing_table(comparison: Comparison, at_most: int = 100) -> Table:
    """Wanted runs without a result; the caption says how many more there are than rows."""
    missing: Sequence[Mapping[str, str]] = comparison["missing"]
    caption = "Wanted runs without a result"
    if len(missing) > at_most:
        caption += f" (the first {at_most} of {len(missing)})"
    table = Table("missing-runs", caption, [("Protocol", ""), ("Recipe", ""), ("Reason", "")])
    table.rows = [
        [words(row["protocol"]), words(row["recipe"]), words(row["reason"])] for row in list(missing)[:at_most]
    ]
    return table
