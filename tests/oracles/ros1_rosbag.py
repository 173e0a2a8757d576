"""ROS's own ``rosbag``, run by a Python that has it (Debian: python3-rosbag), in a process of its own.

python3 ros1_rosbag.py dump BAG OUTPUT                 what rosbag and genpy make of every message
python3 ros1_rosbag.py rewrite BAG OUTPUT COMPRESSION CHUNK_BYTES [MESSAGES]
                                                       the messages written again by ROS's own writer;
                                                       with MESSAGES it dies after so many, bag not closed
"""

import os
import pickle
import shutil
import sys
import tempfile

import genpy
import rosbag


def plain(value):
    if isinstance(value, (genpy.Time, genpy.Duration)):
        return {"sec": value.secs, "nanosec": value.nsecs}
    if isinstance(value, genpy.Message):
        return {name: plain(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def indexed(source, folder):
    """The bag, or a copy of it that ``rosbag`` has indexed."""
    try:
        rosbag.Bag(source).close()
        return source
    except rosbag.ROSBagUnindexedException:
        copy = os.path.join(folder, "indexed.bag")  # noqa: PTH118
        shutil.copyfile(source, copy)
        with rosbag.Bag(copy, "a", allow_unindexed=True) as bag:
            for _ in bag.reindex():
                pass
        return copy


def dump(source, target):
    messages = []
    with tempfile.TemporaryDirectory() as folder, rosbag.Bag(indexed(source, folder)) as bag:
        for topic, (type_name, data, md5, _, kind), time in bag.read_messages(raw=True):
            try:
                value = plain(kind().deserialize(data))
            except Exception as error:  # noqa: BLE001 (whatever it raises is its verdict)
                value = None
                print(f"{topic}: {error}", file=sys.stderr)
            messages.append((topic, type_name, md5, time.to_nsec(), data, value))
    with open(target, "wb") as file:  # noqa: PTH123
        pickle.dump(messages, file)


def rewrite(source, target, compression, chunk_bytes, most=None):
    with rosbag.Bag(source) as bag:
        out = rosbag.Bag(target, "w", compression=compression, chunk_threshold=int(chunk_bytes))
        for number, (topic, raw, time, header) in enumerate(
            bag.read_messages(raw=True, return_connection_header=True)
        ):
            if most is not None and number == int(most):
                out._file.flush()
                os._exit(0)
            out.write(topic, raw, time, raw=True, connection_header=header)
        out.close()


if __name__ == "__main__":
    {"dump": dump, "rewrite": rewrite}[sys.argv[1]](*sys.argv[2:])
