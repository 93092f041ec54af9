"""upkeep beside other programs. A bench prints its figures by `row`; bin/bench makes one table."""


def row(
    what: str,
    ours: float,
    peer: str = "",
    theirs: float | None = None,
    goal: float | None = None,
    unit: str = "ms",
) -> bool:
    """Print one figure as a line of cells with tabs between them; whether its goal is met.

    The cells: what, ours, peer, theirs, ratio, goal, "ok" or "MISSED". `goal` is the most that
    ours / theirs may be, without a peer the most that ours may be; None: it is only shown.
    """
    measured = ours if theirs is None else ours / theirs
    good = goal is None or measured <= goal
    beside, wanted, verdict = ["", ""], "", ""
    if theirs is not None:
        ratio = f"{measured:.2f}" if measured >= 0.1 else f"{measured:.2g}"
        beside = [f"{_digits(theirs)} {unit}", ratio]
    if goal is not None:
        wanted = f"{goal:g} {unit}" if theirs is None else f"{goal:g}"
        verdict = "ok" if good else "MISSED"
    cells = [what, f"{_digits(ours)} {unit}", peer, *beside, wanted, verdict]
    print("\t".join(cells), flush=True)
    return good


def _digits(value: float) -> str:
    """Three digits, or the whole number if that is longer."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
