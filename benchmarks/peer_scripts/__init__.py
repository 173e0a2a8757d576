"""Other ways to turn a bag into Parquet, each a program: BAG OUTPUT.

All but ``rosbags_pyarrow`` run in the peers' environment.
"""
