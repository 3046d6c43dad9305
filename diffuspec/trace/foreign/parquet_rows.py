"""Rows of specspecs' Parquet files as JSON Lines: `python -m diffuspec.trace.foreign.parquet_rows FILE ...`

Bounds its own memory, processor time and output. Exit status 2, and a sentence on stdout, for what a user can mend.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from diffuspec.trace.foreign.specspecs import LIMIT_BYTES, LIMIT_OUT, LIMIT_S, MAX_ROWS, READ, kind_of


def main(files: list[str]) -> int:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        print("Traces of specspecs are Parquet files, which the package pyarrow reads: pip install pyarrow")
        return 2
    _bound()
    written = rows = 0
    for name in map(Path, files):
        try:
            file = parquet.ParquetFile(name)
        except arrow.ArrowInvalid:
            print(
                f"{name.name} has no footer: it is damaged, or its logger was not closed. specspecs 0.1.0 writes the "
                "footer when the logger is garbage-collected: `del logger` at the end of the program."
            )
            return 2
        columns = [column for column in READ[kind_of(name)] if column in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=256, columns=columns):
            rows += len(batch)
            if rows > MAX_ROWS:
                print(f"{name.name} has more than {MAX_ROWS} rows, more than a trace may.")
                return 2
            if "t" in columns:
                place = batch.schema.get_field_index("t")
                batch = batch.set_column(
                    place, "t", batch.column(place).cast(arrow.timestamp("us")).cast(arrow.int64())
                )
            for row in batch.to_pylist():
                line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
                written += len(line)
                if written > LIMIT_OUT:
                    print(f"{name.name} holds more than {LIMIT_OUT >> 20} MB, more than a trace may.")
                    return 2
                sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    return 0


def _bound() -> None:
    try:
        import resource
    except ImportError:  # Windows has none
        return
    for what, most in ((resource.RLIMIT_AS, LIMIT_BYTES), (resource.RLIMIT_CPU, LIMIT_S)):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
