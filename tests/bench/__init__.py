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
    cells = [what, f"{_digits(ours)} {unit}", peer, "", "", "", "" if goal is None else "ok"]
    if theirs is not None:
        cells[3:5] = [f"{_digits(theirs)} {unit}", f"{measured:.2f}"]
    if goal is not None:
        cells[5] = f"{goal:g}" if theirs is not None else f"{goal:g} {unit}"
    print("\t".join([*cells[:6], cells[6] if good else "MISSED"]), flush=True)
    return good


def _digits(value: float) -> str:
    """Three digits, or the whole number if that is longer."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
