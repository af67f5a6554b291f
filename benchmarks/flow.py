"""Error of the probability flow's end point against network calls."""

from __future__ import annotations

from benchmarks.problems import FAMILIES, flow_problem
from scoresde import DDIM, VPSDE, AdamsPC, DPMSolverPP, Euler, Heun, Solver, sample

CALLS = (5, 10, 20, 50, 100)

SOLVERS: tuple[Solver, ...] = (
    Euler(),
    DDIM(),
    Heun(),
    DPMSolverPP(order=2),
    DPMSolverPP(order=3),
    AdamsPC(),
)


def errors(seed: int = 1) -> dict[str, dict[str, list[float]]]:
    """Return relative errors, by family and solver, at each of `CALLS`, on the default grid."""
    table: dict[str, dict[str, list[float]]] = {}
    for family in FAMILIES:
        problem = flow_problem(family, VPSDE(), seed)
        table[family.name] = {
            str(solver): [
                problem.error(
                    sample(problem.model, x=problem.start, solver=solver, nfe=calls, denoise=False)
                )
                for calls in CALLS
            ]
            for solver in SOLVERS
        }
    return table
