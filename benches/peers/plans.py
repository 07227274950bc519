"""The indexes and grids that the peers are measured with, by data set.

Chosen by hand: list counts around the square root of the rows, the finest 4-bit codes that scan from registers, and
grids that bracket recall .90 to .99 at k = 10. No OPQ for 784 dimensions: a run that had it in the plan was given up
after 14 minutes, where the others build in two (the time was not traced to OPQ's training, which is the likely place).
`--index` of run.py measures other FAISS factory strings, so that a claim of a badly tuned peer can be tested at once.
"""

from __future__ import annotations

from engines import FaissPlan, ScannPlan

NPROBE = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
K_FACTOR_RF = (2, 4, 8, 16, 32)

PLANS: dict[str, tuple[FaissPlan | ScannPlan, ...]] = {
    "fashion-mnist": (
        FaissPlan("IVF512,PQ196x4fs,RFlat", (2, 4, 6, 8, 12, 16, 24, 32, 64), (1, 2, 4, 8, 16)),
        FaissPlan("IVF256,PQ392x4fs,RFlat", (2, 4, 6, 8, 12, 16, 24, 32), (1, 2, 4, 8)),
        ScannPlan(512, 4, (2, 4, 6, 8, 12, 16, 24, 32, 64), (10, 20, 40, 80, 160)),
        ScannPlan(512, 2, (2, 4, 6, 8, 12, 16, 24, 32, 64), (10, 20, 40, 80)),
    ),
    "glove-100": (
        FaissPlan("IVF1024,PQ50x4fs,RFlat", NPROBE, K_FACTOR_RF),
        FaissPlan("IVF2048,PQ50x4fs,RFlat", NPROBE, K_FACTOR_RF),
        FaissPlan("OPQ50,IVF1024,PQ50x4fs,RFlat", NPROBE, K_FACTOR_RF),
        ScannPlan(1000, 2, NPROBE, (20, 40, 80, 120, 200, 320), anisotropic=0.2),
        ScannPlan(2000, 2, NPROBE, (20, 40, 80, 120, 200, 320), anisotropic=0.2),
        ScannPlan(1000, 2, NPROBE, (20, 40, 80, 120, 200, 320), anisotropic=0.2, soar=True),
    ),
}
