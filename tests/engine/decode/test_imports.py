"""What decoding does not import: seconds of start-up in every job."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "awkward", "rosbags"):
            print("imports", name)

sys.meta_path.insert(0, Watch())
import struct
import numpy as np
from ros_to_parquet.bag.model import Connection, MessageBlock
from ros_to_parquet.decode import Decoder
from ros_to_parquet.layout import resolve_layout

text = "Header header\\nstring s\\nbool[2] b\\nuint8[] d\\nfloat64[] v\\n" + "=" * 80
text += "\\nMSG: std_msgs/Header\\nuint32 seq\\ntime stamp\\nstring frame_id\\n"
connection = Connection(0, "/t", "pkg/Type", text, "ros1msg", "", "ros1")
good = bytes(16) + struct.pack("<I", 1) + b"\\xff" + b"\\1\\0" + bytes(4) + struct.pack("<Id", 1, 1.5)
numbers = np.arange(3, dtype=np.int64)
data = np.frombuffer(good * 3, np.uint8)
lengths = np.full(3, len(good))
lengths[1] -= 1
block = MessageBlock(connection, data, numbers * len(good), lengths, numbers, None, None, numbers)
decoded = Decoder(resolve_layout(connection), "ros1").decode(block)
print(decoded.rows.tolist(), len(decoded.rejected), decoded.repaired_strings)
"""


def test_neither_pandas_nor_awkward_nor_rosbags_is_imported_for_a_recorded_definition() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[0, 2] 1 2\n", "")
