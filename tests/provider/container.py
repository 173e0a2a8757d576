"""The entry point of jobs in the provider's tests: the engine, unless the job's environment says otherwise.

``TEST_CONTAINER``: ``hang`` sleeps until it is ended; ``exit N`` ends with that code before it does anything;
``exit N for 0,2`` only in those children of an array; ``after FILE`` waits until there is such a file.

``submit`` and ``retry`` run in this package as the image carries it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

words = os.environ.get("TEST_CONTAINER", "").split()
index = os.environ.get("AWS_BATCH_JOB_ARRAY_INDEX")
if words[:1] == ["hang"]:
    time.sleep(600)
elif words[:1] == ["after"]:
    while not os.path.exists(words[1]):  # noqa: PTH110
        time.sleep(0.05)
elif words[:1] == ["exit"] and (len(words) == 2 or index in words[3].split(",")):
    print(f"told to exit {words[1]}")
    sys.exit(int(words[1]))
root = Path(__file__).parents[2]
# The engine beside these tests, whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(root / "container"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
if sys.argv[1:2] in (["submit"], ["retry"]):
    sys.path[:0] = [str(root), str(root / "container")]
    from airflow_batch_ros.stack.planner import FOLDER, add_to_context

    context = Path(tempfile.mkdtemp())
    add_to_context(context)
    os.environ["PYTHONPATH"] = f"{context / FOLDER}{os.pathsep}{root / 'container'}"
os.execvp("ros-to-parquet", ["ros-to-parquet", *sys.argv[1:]])
