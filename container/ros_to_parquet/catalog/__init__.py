"""Tables of a lake in a catalogue of others: Glue's Hive tables (`glue`), or Iceberg (`iceberg`).

A catalogue points at exactly the files that a drive's manifests name. It follows from the manifests alone: a
drive is registered once more at any time, and what is there already stays as it is.
"""
