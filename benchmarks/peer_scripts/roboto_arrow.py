"""roboto-mcap-codec (Rust) to Arrow, pyarrow to Parquet: a thread a core, each with a channel at a time."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mcap_codec
import pyarrow.parquet as pq
from mcap.reader import make_reader


def write_topic(bag: Path, topic: str, output: Path) -> None:
    with bag.open("rb") as file:

        def read_bytes(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        with mcap_codec.open_mcap_file(
            read_bytes,
            bag.stat().st_size,
            channel=mcap_codec.TopicName(topic),
            timestamp=mcap_codec.TimestampSource("message_log_time"),
        ) as cursor:
            batches = cursor.to_record_batch_reader()
            name = topic.strip("/").replace("/", ".")
            with pq.ParquetWriter(
                output / f"{name}.parquet", batches.schema, compression="zstd", compression_level=1
            ) as writer:
                for batch in batches:
                    writer.write_batch(batch)


def main(bag: Path, output: Path) -> None:
    with bag.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    topics = [channel.topic for channel in summary.channels.values()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in [pool.submit(write_topic, bag, topic, output) for topic in topics]:
            done.result()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
