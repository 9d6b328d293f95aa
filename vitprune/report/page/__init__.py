"""The page that shows a run and lets one intervene in it: one HTML file that needs nothing else."""

from vitprune.report.page.page import Findings, Run, write_page

__all__ = ["Findings", "Run", "write_page"]
