"""MLflow, failing soft: a step's record is spooled to disk and delivered when the server can be had.

`recorder` writes what a step tells into the spool and imports nothing but the standard library. A process beside the
step (`python -m components.tracking`, started by the recorder) reads the spool and speaks with MLflow, so that neither
a slow server nor MLflow's two seconds of imports, its threads and its memory reach the step. What could not be
delivered stays in the spool for the next step.

`reading` is the way back: one reader of what MLflow holds, for lineage and comparison.
"""

from components.tracking.recorder import Recorder

__all__ = ["Recorder"]
