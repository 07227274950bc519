"""The indexes and grids that the peers are measured with, by data set.

Chosen by hand. Inverted lists: list counts around the square root of the rows, the finest 4-bit codes that scan from
registers, RaBitQ at the widths that reach the recalls. Graphs: built as their authors advise (degree, ef_construction).
Grids bracket recall .90 to .99 at k = 10, and are as short as that allows: all engines together shall be measured in
minutes.

Not in the plans: OPQ in FAISS (for 784 dimensions a run that had it was given up after 14 minutes, where the others
build in two; for GloVe after more than two minutes of processor time, where the same lists and codes without it took
less than one in all; not traced to OPQ's training, which is the likely place), and FAISS's `RaBitQfs8` without vectors
(the memory of rabitq-ivf with as many bits, a quarter of its speed on the first 10,000 rows of Fashion-MNIST).
`--index` of run.py measures other FAISS factory strings, so that a claim of a badly tuned peer can be tested at once.
"""

from __future__ import annotations

from engines.plan import FaissPlan, GraphPlan, Plan, RabitqIvfPlan, ScannPlan

NPROBE = (8, 16, 32, 64, 96, 128, 192, 256)
K_FACTOR_RF = (2, 4, 8, 16, 32)
REORDER = (20, 40, 80, 120, 200, 320)
FEW_LISTS = (2, 4, 6, 8, 12, 16, 24, 32, 64)
SHORT_BEAMS = (10, 12, 16, 20, 30, 40, 60, 80, 120, 200)
LONG_BEAMS = (10, 20, 40, 60, 80, 120, 160, 240, 320, 480, 720)

PLANS: dict[str, tuple[Plan, ...]] = {
    "fashion-mnist": (
        FaissPlan("IVF512,PQ196x4fs,RFlat", FEW_LISTS, (1, 2, 4, 8, 16)),
        FaissPlan("IVF256,PQ392x4fs,RFlat", FEW_LISTS[:-1], (1, 2, 4, 8)),
        FaissPlan("RR,IVF512,RaBitQfs,RFlat", FEW_LISTS, (1, 2, 4, 8, 16)),
        FaissPlan("RR,IVF512,RaBitQfs2,RFlat", FEW_LISTS, (1, 2, 4)),
        ScannPlan(512, 4, FEW_LISTS, (10, 20, 40, 80, 160)),
        ScannPlan(512, 2, FEW_LISTS, (10, 20, 40, 80)),
        GraphPlan("hnswlib", 24, 200, SHORT_BEAMS),
        GraphPlan("usearch", 24, 200, SHORT_BEAMS, "f16"),
        GraphPlan("glass", 32, 200, SHORT_BEAMS, "sq8+f32"),
        GraphPlan("glass", 32, 200, SHORT_BEAMS, "sq8"),
        GraphPlan("diskann", 64, 125, SHORT_BEAMS),
        RabitqIvfPlan(512, 4, FEW_LISTS),
        RabitqIvfPlan(512, 7, FEW_LISTS),
        RabitqIvfPlan(512, 32, FEW_LISTS),
        GraphPlan("rabitq-hnsw", 16, 200, SHORT_BEAMS, "8bit"),
        GraphPlan("symphonyqg", 32, 200, SHORT_BEAMS),
        GraphPlan("symphonyqg", 32, 200, SHORT_BEAMS, "8bit"),
    ),
    "glove-100": (
        FaissPlan("IVF1024,PQ50x4fs,RFlat", NPROBE, K_FACTOR_RF),
        FaissPlan("IVF2048,PQ50x4fs,RFlat", NPROBE, K_FACTOR_RF),
        FaissPlan("RR,IVF1024,RaBitQfs,RFlat", NPROBE, (4, 8, 16, 32, 64)),
        FaissPlan("RR,IVF1024,RaBitQfs4,RFlat", NPROBE, (1, 2, 4)),
        ScannPlan(1000, 2, NPROBE, REORDER, anisotropic=0.2),
        ScannPlan(2000, 2, NPROBE, REORDER, anisotropic=0.2),
        ScannPlan(1000, 2, NPROBE, REORDER, anisotropic=0.2, soar=True),
        GraphPlan("hnswlib", 24, 200, LONG_BEAMS),
        GraphPlan("usearch", 24, 200, LONG_BEAMS, "f16"),
        GraphPlan("glass", 32, 200, LONG_BEAMS, "sq8+f32"),
        GraphPlan("glass", 32, 200, LONG_BEAMS, "sq8"),
        GraphPlan("diskann", 64, 125, LONG_BEAMS),
        RabitqIvfPlan(1024, 4, NPROBE),
        RabitqIvfPlan(1024, 8, NPROBE),
        RabitqIvfPlan(1024, 32, NPROBE),
        GraphPlan("rabitq-hnsw", 16, 200, LONG_BEAMS, "8bit"),
        GraphPlan("symphonyqg", 32, 200, LONG_BEAMS),
    ),
}
