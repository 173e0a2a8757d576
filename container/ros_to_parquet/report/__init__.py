"""A drive's report: one HTML file of what its manifests and tables say, readable without anything else.

`drive` gathers what the manifests say; `rates`, `track`, `series`, `frames`, `clouds` and `frame_tree` each
read one kind of thing from the tables, a bounded part at a time; `plots` and `pictures` draw; `page` puts it
together.
"""
