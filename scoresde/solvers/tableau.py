"""Explicit Runge-Kutta methods: one step in any frame, and the coefficients as data."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.sde import Level
from scoresde.solvers.frames import Frame
from scoresde.tensors import Scalar, Term, lincomb

Row = tuple[Scalar, ...]


class Tableau(NamedTuple):
    """A Butcher tableau.

    Attributes:
        nodes: where the stages after the first lie, as shares of the step.
        rows: weights of the slopes so far in each of these.
        weights: of all slopes in the solution.
        errors: of all slopes, and of the one at the solution, in the estimates of the local error.
    """

    nodes: Row
    rows: tuple[Row, ...]
    weights: Row
    errors: tuple[Row, ...] = ()

    def step(
        self, frame: Frame, field: Field, x: Tensor, here: Level, there: Level, first: Term
    ) -> tuple[Tensor, list[Term]]:
        """Step from x (B, *) at `here`, where the slope is `first`, to `there`.

        With y = x / scale and the variable u of the frame, each stage lies at y + h sum_j a_j k_j
        with the slopes k = dy/du of those before it.

        Returns:
            The new state (B, *), and the slopes of the stages.
        """
        c, slopes = field.data_std, [first]
        start, scale = frame.variable(here, c), frame.scale(here, c)
        h = frame.variable(there, c) - start

        def reach(at: Level, row: Row) -> Tensor:
            size = frame.scale(at, c)
            return lincomb((size / scale, x), *_moves(size * h, row, slopes))

        for node, row in zip(self.nodes, self.rows, strict=True):
            at = there if node == 1.0 else frame.level(start + node * h, field.sde, c)
            slopes.append(frame.term(field, reach(at, row), at))
        return reach(there, self.weights), slopes

    def estimates(
        self, frame: Frame, field: Field, here: Level, there: Level, slopes: list[Term]
    ) -> list[Tensor]:
        """Return the estimates of the local error of a step (B, *)."""
        c = field.data_std
        h = frame.variable(there, c) - frame.variable(here, c)
        size = frame.scale(there, c) * h
        return [lincomb(*_moves(size, row, slopes)) for row in self.errors]


def _moves(size: Scalar, row: Row, slopes: list[Term]) -> list[Term]:
    terms = zip(row, slopes, strict=True)
    return [(size * a * c, k) for a, (c, k) in terms if isinstance(a, Tensor) or a != 0.0]


EULER = Tableau((), (), (1.0,))

MIDPOINT = Tableau((0.5,), ((0.5,),), (0.0, 1.0))

HEUN = Tableau((1.0,), ((1.0,),), (0.5, 0.5))

CLASSICAL = Tableau(
    (0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
)

BOGACKI_SHAMPINE = Tableau(
    nodes=(1 / 2, 3 / 4),
    rows=((1 / 2,), (0.0, 3 / 4)),
    weights=(2 / 9, 1 / 3, 4 / 9),
    errors=((-5 / 72, 1 / 12, 1 / 9, -1 / 8),),
)

DORMAND_PRINCE = Tableau(
    nodes=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
    rows=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    weights=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    errors=((71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),),
)

# fmt: off
TSITOURAS = Tableau(
    nodes=(0.161, 0.327, 0.9, 0.9800255409045097, 1.0),
    rows=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401,
         -0.028269050394068383),
    ),
    weights=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742,
             -3.290069515436081, 2.324710524099774),
    errors=((-0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995,
             -0.1447110071732629, 0.5823571654525552, -0.45808210592918697, 1 / 66),),
)

DORMAND_PRINCE_853 = Tableau(
    nodes=(0.05260015195876773, 0.0789002279381516, 0.1183503419072274, 0.2816496580927726,
           1 / 3, 1 / 4, 4 / 13, 127 / 195, 3 / 5, 6 / 7, 1.0),
    rows=(
        (0.05260015195876773,),
        (0.0197250569845379, 0.0591751709536137),
        (0.02958758547680685, 0.0, 0.08876275643042054),
        (0.2413651341592667, 0.0, -0.8845494793282861, 0.924834003261792),
        (1 / 27, 0.0, 0.0, 0.17082860872947386, 0.12546768756682242),
        (19 / 512, 0.0, 0.0, 0.17025221101954405, 0.06021653898045596, -9 / 512),
        (0.03709200011850479, 0.0, 0.0, 0.17038392571223998, 0.10726203044637328,
         -0.015319437748624402, 0.008273789163814023),
        (0.6241109587160757, 0.0, 0.0, -3.3608926294469414, -0.868219346841726,
         27.59209969944671, 20.154067550477894, -43.48988418106996),
        (0.47766253643826434, 0.0, 0.0, -2.4881146199716677, -0.590290826836843,
         21.230051448181193, 15.279233632882423, -33.28821096898486, -0.020331201708508627),
        (-0.9371424300859873, 0.0, 0.0, 5.186372428844064, 1.0914373489967295,
         -8.149787010746927, -18.52006565999696, 22.739487099350505, 2.4936055526796523,
         -3.0467644718982196),
        (2.273310147516538, 0.0, 0.0, -10.53449546673725, -2.0008720582248625,
         -17.9589318631188, 27.94888452941996, -2.8589982771350235, -8.87285693353063,
         12.360567175794303, 0.6433927460157636),
    ),
    weights=(0.054293734116568765, 0.0, 0.0, 0.0, 0.0, 4.450312892752409, 1.8915178993145003,
             -5.801203960010585, 0.3111643669578199, -0.1521609496625161, 0.20136540080403034,
             0.04471061572777259),
    errors=(
        (0.01312004499419488, 0.0, 0.0, 0.0, 0.0, -1.2251564463762044, -0.4957589496572502,
         1.6643771824549864, -0.35032884874997366, 0.3341791187130175, 0.08192320648511571,
         -0.022355307863886294, 0.0),
        (-0.18980075407240762, 0.0, 0.0, 0.0, 0.0, 4.450312892752409, 1.8915178993145003,
         -5.801203960010585, -0.4226823213237919, -0.1521609496625161, 0.20136540080403034,
         0.02265179219836082, 0.0),
    ),
)
# fmt: on
