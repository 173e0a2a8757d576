"""Results of quality checks: as a Parquet table, and as a drive's manifest has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ros_to_parquet import contract
from ros_to_parquet.contract import DriveQuality, Plan, QualityFinding, QualityLevel
from ros_to_parquet.log import event
from ros_to_parquet.quality.judge import Result, judge
from ros_to_parquet.quality.numbers import Numbers, load
from ros_to_parquet.storage import Storage, join

SCHEMA = pa.schema(
    [
        pa.field("plan_id", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("check", pa.string(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("warn", pa.float64()),
        pa.field("error", pa.float64()),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("log_time", pa.timestamp("us", tz="UTC")),
        pa.field("log_time_ns", pa.int64()),
        pa.field("messages", pa.int64(), nullable=False),
    ]
)
"""A row a topic and check."""

SHOWN = 20
"""Findings that the log has a line of."""

_WORST_FIRST = (QualityLevel.ERROR, QualityLevel.WARN, QualityLevel.OK)


class Gathered:
    """Numbers of shards, added one manifest at a time: a drive may have 10,000."""

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._left_out = 0

    def add(self, manifest: contract.Manifest) -> contract.Manifest:
        """Takes its numbers; returns it."""
        if manifest.quality:
            measured = load(manifest.quality)
            if measured is None:
                self._left_out += 1
            else:
                self._numbers.add(measured)
        return manifest

    def judge(self, storage: Storage, plan: Plan) -> DriveQuality | None:
        """Writes the plan's table; None where nothing was measured."""
        if self._left_out:
            reason = f"{self._left_out} shards were measured by another version of the engine"
            event("quality_left_out", drive_id=plan.drive_id, reason=reason)
        if not self._numbers.topics:
            return None
        axis = self._numbers.settle()
        results = judge(self._numbers, axis, plan.quality)
        path = contract.quality_key(plan.drive_id, plan.plan_id)
        storage.write(join(plan.output, path), as_parquet(plan.plan_id, results))
        counts = Counter(result.level for result in results)
        findings = find(results)
        ok, warn, error = (counts[level] for level in QualityLevel)
        event("quality", drive_id=plan.drive_id, ok=ok, warn=warn, error=error)
        for each in findings[:SHOWN]:
            event("quality_finding", drive_id=plan.drive_id, level=each.level, finding=str(each))
        return DriveQuality(
            path=path,
            ok=ok,
            warn=warn,
            error=error,
            findings=tuple(findings[: contract.MAX_REASONS]),
        )


def find(results: Sequence[Result]) -> list[QualityFinding]:
    """What is not ok, errors first."""
    found = [
        QualityFinding(
            topic=result.topic,
            check=result.measure.check,
            level=result.level,
            value=result.measure.value,
            limit=result.limit,
            unit=result.measure.unit,
            detail=result.measure.detail,
            log_time_ns=result.measure.log_time_ns,
        )
        for result in results
        if result.limit is not None
    ]
    return sorted(found, key=lambda each: _WORST_FIRST.index(each.level))


def as_parquet(plan_id: str, results: Sequence[Result]) -> bytes:
    """The table as a Parquet file, errors first."""
    rows = [
        {
            "plan_id": plan_id,
            "topic": result.topic,
            "type": result.type_name,
            "check": str(result.measure.check),
            "level": str(result.level),
            "value": result.measure.value,
            "unit": result.measure.unit,
            "warn": result.limits.warn,
            "error": result.limits.error,
            "detail": result.measure.detail,
            "log_time": None if (at := result.measure.log_time_ns) is None else at // 1000,
            "log_time_ns": at,
            "messages": result.messages,
        }
        for result in sorted(results, key=lambda each: _WORST_FIRST.index(each.level))
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())
