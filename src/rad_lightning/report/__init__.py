"""``report``: tables, plots and one page out of the files that a sweep leaves behind.

``collect`` reads, ``statistics`` counts, ``grids`` says what is in which table, ``tables``,
``plots`` and ``page`` show it, ``files`` writes it.
"""

from rad_lightning.report.files import write_report

__all__ = ["write_report"]
